use super::*;
use crate::ovs::golden;

const NETWORK: Network = Network { vni: 0x2a, port: 6784 };
const STATION: Mac = Mac([2, 0, 0, 0, 0, 6]);

fn flow(frames: Frames, tagged: bool, action: Action) -> (Match, Action) {
    (Match { frames, tagged }, action)
}

fn send(remote: &str, mark: Option<u32>) -> Action {
    Action::Send { remote: remote.parse().unwrap(), mark }
}

fn encoded((matching, action): (Match, Action)) -> Vec<u8> {
    let mut bytes = Vec::new();
    matching.encode(&mut bytes, NETWORK);
    action.encode(&mut bytes, matching, NETWORK);
    bytes
}

fn captured() -> [(&'static str, (Match, Action)); 4] {
    [
        ("to", flow(Frames::To(STATION), false, send("10.9.0.2", Some(5)))),
        ("to-tagged", flow(Frames::To(STATION), true, send("fd00::2", None))),
        ("from", flow(Frames::From4, false, Action::Deliver)),
        ("from-tagged-v6", flow(Frames::From6, true, Action::Deliver)),
    ]
}

#[test]
fn flows_are_written_as_open_vswitch_itself_does() {
    for (name, flow) in captured() {
        assert_eq!(encoded(flow), golden::attributes(&format!("put-{name}")), "{name}");
    }
}

#[test]
fn a_flow_is_named_as_open_vswitch_itself_does() {
    let mut bytes = Vec::new();
    Match { frames: Frames::To(STATION), tagged: false }.encode(&mut bytes, NETWORK);
    assert_eq!(bytes, golden::attributes("delete-to"));
}

#[test]
fn flows_that_the_kernel_tells_of_are_known_again() {
    for (name, (matching, action)) in captured() {
        let bytes = golden::attributes(&format!("dumped-{name}"));
        assert_eq!(Found::decode(Attributes(&bytes), NETWORK), Some(Found::Ours(matching, action)), "{name}");
    }
}

#[test]
fn a_flow_without_our_name_or_of_another_network_is_strange() {
    let bytes = golden::attributes("dumped-foreign");
    let Some(Found::Strange(name)) = Found::decode(Attributes(&bytes), NETWORK) else { panic!("not strange") };
    assert_eq!(Attributes(&name).next().map(|(kind, _)| kind), Some(FLOW_KEY));
    for network in [Network { vni: 0x2b, ..NETWORK }, Network { port: 6785, ..NETWORK }] {
        let bytes = golden::attributes("dumped-to");
        let Some(Found::Strange(name)) = Found::decode(Attributes(&bytes), network) else { panic!("not strange") };
        assert_eq!(Attributes(&name).next().map(|(kind, _)| kind), Some(FLOW_UFID));
    }
    let bytes = golden::attributes("dumped-from");
    let other = Network { vni: 0x2b, ..NETWORK };
    assert!(matches!(Found::decode(Attributes(&bytes), other), Some(Found::Strange(_))));
}

#[test]
fn a_flow_that_looks_at_more_or_less_is_strange() {
    let whole = golden::attributes("dumped-to");
    assert!(matches!(Found::decode(Attributes(&whole), NETWORK), Some(Found::Ours(..))));
    // Each bit of key, mask and actions counts, or is masked out.
    let (mut same, mut other) = (0, 0);
    for position in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[position] ^= 1 << bit;
            match Found::decode(Attributes(&changed), NETWORK) {
                Some(Found::Ours(matching, _)) if matching.frames == Frames::To(STATION) => same += 1,
                _ => other += 1,
            }
        }
    }
    assert!(other > 500 && same > 500, "{same} {other}");
}

#[test]
fn our_own_bytes_are_known_again() {
    bolero::check!().with_type::<([u8; 6], u8, bool, Result<[u8; 4], [u8; 16]>, Option<u32>)>().for_each(
        |(mac, frames, tagged, remote, mark)| {
            let frames = [Frames::To(Mac(*mac)), Frames::From4, Frames::From6][usize::from(frames % 3)];
            let remote = remote.map_or_else(IpAddr::from, IpAddr::from);
            let action =
                if let Frames::To(_) = frames { Action::Send { remote, mark: *mark } } else { Action::Deliver };
            let flow = flow(frames, *tagged, action);
            assert_eq!(Found::decode(Attributes(&encoded(flow)), NETWORK), Some(Found::Ours(flow.0, flow.1)));
        },
    );
}

#[test]
fn when_a_flow_was_used_is_read_by_its_name_alone() {
    let matching = Match { frames: Frames::To(Mac([2, 0, 0, 0, 0, 6])), tagged: true };
    let mut bytes = Vec::new();
    put(&mut bytes, FLOW_UFID, &matching.ufid());
    assert_eq!(decode_used(Attributes(&bytes)), None, "never");
    put(&mut bytes, FLOW_USED, &123_456_u64.to_ne_bytes());
    assert_eq!(decode_used(Attributes(&bytes)), Some((matching, 123_456)));
}

#[test]
fn any_bytes_are_survived() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let _ = (Found::decode(Attributes(bytes), NETWORK), decode_used(Attributes(bytes)));
    });
}

#[test]
fn what_the_kernel_tells_is_survived_however_spoilt() {
    let whole = golden::attributes("dumped-to-tagged");
    bolero::check!().with_type::<Vec<(u16, u8)>>().for_each(|changes| {
        let mut bytes = whole.clone();
        for (position, value) in changes {
            let len = bytes.len();
            bytes[usize::from(*position) % len] = *value;
        }
        let _ = Found::decode(Attributes(&bytes), NETWORK);
    });
}
