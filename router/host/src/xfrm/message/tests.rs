//! Golden bytes: what `ip xfrm` (iproute2 6.1) sends for the command in each file's first line.

use super::*;

const PORT: u16 = 6784;

fn golden(text: &str) -> Vec<u8> {
    let digits: String = text.lines().skip(1).collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn body(mut request: Request) -> Vec<u8> {
    request.finish(1)[16..].to_vec()
}

fn ours() -> Ours {
    Ours::new(PORT)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id() -> StateId {
    StateId { destination: address("10.9.0.1"), spi: 0x800 }
}

fn state() -> State {
    let key = std::array::from_fn(|at| at as u8 + 1);
    State { source: Some(address("10.9.0.2")), key: SaKey(key.into()), encap: Some((4500, 4501)) }
}

fn inward() -> Selector {
    Selector { way: Way::In, peer: address("10.9.0.2"), lane: (0, 0) }
}

#[test]
fn states_are_as_ip_xfrm_makes_them() {
    let bytes = body(ours().add_state(id(), &state(), 4096));
    assert_eq!(bytes, golden(include_str!("golden/state-in.hex")));
    assert_eq!(ours().read_state(&bytes), Some((id(), Some(state().key))));
    let mut redacted = bytes.clone();
    redacted[300..336].fill(0);
    assert_eq!(ours().read_state(&redacted), Some((id(), None)));
    assert_eq!(ours().read_state(&bytes[..224]), None, "a wish for a state");
    assert_eq!(Ours::new(PORT + 1).read_state(&bytes), None, "another network's");
    // iproute2 tells the source address as well, though the kernel does not look at it.
    let deleted = golden(include_str!("golden/state-delete.hex"));
    assert_eq!(body(Ours::delete_state(id())), deleted[..24]);
}

#[test]
fn policies_are_as_ip_xfrm_makes_them() {
    let bytes = body(ours().put_policy(inward(), 57_451, Verdict::Esp(0), false));
    assert_eq!(bytes, golden(include_str!("golden/policy-in.hex")));
    assert_eq!(
        ours().read_policy(&bytes),
        Some((inward(), Policy { priority: 57_451, verdict: Some(Verdict::Esp(0)) }))
    );
    assert_eq!(Ours::new(PORT + 1).read_policy(&bytes), None, "another network's");
    assert_eq!(body(ours().delete_policy(inward())), golden(include_str!("golden/policy-delete.hex")));

    let guard = Selector { way: Way::Forward, peer: address("0.0.0.0"), lane: (0, 0) };
    let bytes = body(ours().put_policy(guard, 57_459, Verdict::Block, false));
    assert_eq!(bytes, golden(include_str!("golden/guard.hex")));
    assert_eq!(ours().read_policy(&bytes).unwrap().1.verdict, Some(Verdict::Block));
}

#[test]
fn lanes_compare_bits_of_the_source_port() {
    let lane = Selector { way: Way::Out, peer: address("fd00::2"), lane: (3, 7) };
    let bytes = body(ours().put_policy(lane, 57_450, Verdict::Esp(0x803), true));
    assert_eq!(ours().read_policy(&bytes).unwrap().0, lane);
    // iproute2 knows no mask for ports but all ones.
    let mut whole = golden(include_str!("golden/policy-out.hex"));
    assert_eq!(whole[38..40], [0xff, 0xff]);
    whole[38..40].copy_from_slice(&[0, 7]);
    assert_eq!(bytes, whole);
}

#[test]
fn policies_that_we_do_not_make_are_known_as_such() {
    let bytes = body(ours().put_policy(inward(), 57_451, Verdict::Esp(0), false));
    let read = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        ours().read_policy(&changed)
    };
    assert_eq!(read(&|b| b[44] = 6), None, "TCP");
    assert_eq!(read(&|b| b[43] = 24), None, "a subnet");
    assert_eq!(read(&|b| b[48] = 1), None, "a device");
    let verdict = |change| read(change).unwrap().1.verdict;
    assert_eq!(verdict(&|b| b[168 + 4 + 44] ^= 1), None, "another reqid");
    assert_eq!(verdict(&|b| b[161] = 1), None, "blocked with a template");
}

#[test]
fn counters_are_read() {
    let mut answer = Request::new(NEWAE, 0);
    answer.zeros(48).attribute(ATTR_LIFETIME, |r| r.u64(1000).u64(10).zeros(16));
    assert_eq!(read_seen(&body(answer)), Some(Seen { packets: 10, bytes: 1000 }));
    assert_eq!(read_seen(&[]), None);
}

#[test]
fn a_request_with_a_key_never_moves() {
    let mut request = ours().add_state(id(), &state(), 4096);
    assert!(request.finish(1).len() < 1024);
}

#[test]
fn reading_never_panics() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let _ = (ours().read_state(bytes), ours().read_policy(bytes), read_seen(bytes));
    });
}
