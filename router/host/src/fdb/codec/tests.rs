use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use super::*;

const MAC: Mac = Mac([0x02, 1, 2, 3, 4, 5]);

fn entry(target: Target) -> Entry {
    Entry { device: 7, mac: MAC, target }
}

/// What another implementation reads in our bytes.
fn read(bytes: &[u8]) -> (u16, u32, RouteNetlinkMessage) {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).unwrap();
    assert_eq!(message.header.length as usize, bytes.len());
    let NetlinkPayload::InnerMessage(inner) = message.payload else { panic!("{message:?}") };
    (message.header.flags, message.header.sequence_number, inner)
}

#[test]
fn changes_are_what_others_read() {
    let mut bytes = Vec::new();
    Change::Put(entry(Target::Port)).encode(9, true, &mut bytes);
    let (flags, sequence, message) = read(&bytes);
    assert_eq!((flags, sequence), (NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK, 9));
    let mut expected = NeighbourMessage::default();
    expected.header.family = AddressFamily::Bridge;
    expected.header.ifindex = 7;
    expected.header.state = NeighbourState::Noarp;
    expected.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    expected.attributes = vec![NeighbourAttribute::LinkLayerAddress(MAC.0.to_vec())];
    assert_eq!(message, RouteNetlinkMessage::NewNeighbour(expected.clone()));

    expected.header.state = NeighbourState::Permanent;
    expected.header.flags = NeighbourFlags::Own;
    bytes.clear();
    Change::Remove(entry(Target::Remote("10.0.0.1".parse().unwrap()))).encode(10, false, &mut bytes);
    assert_eq!(read(&bytes), (NLM_F_REQUEST, 10, RouteNetlinkMessage::DelNeighbour(expected)));

    bytes.clear();
    Change::Put(entry(Target::Remote("fd00::1".parse().unwrap()))).encode(11, false, &mut bytes);
    assert_eq!(bytes.len(), CHANGE_LEN_MAX);
    let text = format!("{:?}", read(&bytes).2);
    assert!(text.contains("Destination") && text.contains("253"), "{text}");

    bytes.clear();
    Change::Put(entry(Target::Group(0x8123_0005))).encode(12, false, &mut bytes);
    let attribute = [8_u16.to_ne_bytes(), 13_u16.to_ne_bytes()].concat();
    assert!(bytes.ends_with(&[attribute, 0x8123_0005_u32.to_ne_bytes().to_vec()].concat()));
    bytes.clear();
    Change::Put(Entry { mac: NOBODY, ..entry(Target::Remote("10.0.0.1".parse().unwrap())) })
        .encode(13, false, &mut bytes);
    assert_eq!(read(&bytes).0, NLM_F_REQUEST | NLM_F_CREATE);
}

#[test]
fn lines_are_told_apart() {
    // As the kernel lists a change: the same, and the bridge of which it is.
    let listed = |entry: Entry, state: u16, flags: u8, bridge: Option<u32>| {
        let mut bytes = Vec::new();
        start(RTM_NEWNEIGH, 0, 3, &mut bytes);
        ndmsg(entry.device, state, flags, &mut bytes);
        attribute(NDA_LLADDR, &entry.mac.0, &mut bytes);
        if let Target::Remote(IpAddr::V4(address)) = entry.target {
            attribute(NDA_DST, &address.octets(), &mut bytes);
        }
        if let Target::Group(id) = entry.target {
            attribute(NDA_NH_ID, &id.to_ne_bytes(), &mut bytes);
        }
        if let Some(bridge) = bridge {
            attribute(NDA_MASTER, &bridge.to_ne_bytes(), &mut bytes);
        }
        let ticks = [7_u32, 250, 300, 0].map(u32::to_ne_bytes);
        attribute(NDA_CACHEINFO, &ticks.concat(), &mut bytes);
        finish(0, &mut bytes);
        let Some(Answer::Item { sequence: 3, interrupted: false, item: Some(Listed::Line(line)) }) =
            answers(&bytes).next()
        else {
            panic!("{bytes:?}");
        };
        assert_eq!((line.device, line.mac), (entry.device, entry.mac));
        assert_eq!(line.unused, Duration::from_millis(2500));
        line.kind
    };
    let remote = Target::Remote("10.0.0.1".parse().unwrap());
    let port = entry(Target::Port);
    assert_eq!(listed(port, NUD_NOARP, NTF_STICKY, Some(2)), LineKind::Made(Target::Port));
    assert_eq!(listed(port, NUD_NOARP, 0, Some(2)), LineKind::Odd);
    assert_eq!(listed(port, NUD_REACHABLE, 0, Some(2)), LineKind::Heard);
    assert_eq!(listed(port, NUD_PERMANENT, 0, Some(2)), LineKind::Other, "the port itself");
    assert_eq!(listed(port, NUD_PERMANENT, 0, Some(7)), LineKind::Made(Target::Itself));
    assert_eq!(listed(port, NUD_PERMANENT, NTF_SELF, None), LineKind::Other, "a group that it listens to");
    for target in [remote, Target::Group(0x8123_0005)] {
        assert_eq!(listed(entry(target), NUD_PERMANENT, NTF_SELF, None), LineKind::Made(target));
    }
}

#[test]
fn errors_and_ends_are_answers() {
    let message = |kind: u16, code: i32| {
        let mut bytes = Vec::new();
        start(kind, NLM_F_DUMP_INTR, 5, &mut bytes);
        bytes.extend(code.to_ne_bytes());
        finish(0, &mut bytes);
        bytes
    };
    let bytes = [message(NLMSG_ERROR, -2), message(NLMSG_DONE, 0), message(NLMSG_ERROR, 0)[..19].to_vec()].concat();
    let end = |errno| Answer::End { sequence: 5, interrupted: true, errno };
    assert_eq!(answers(&bytes).collect::<Vec<_>>(), [end(Some(Errno::ENOENT)), end(None)]);
}

#[test]
fn any_bytes_are_survived() {
    bolero::check!().for_each(|bytes: &[u8]| {
        assert!(answers(bytes).count() <= bytes.len() / HEADER_LEN);
        line(bytes);
        hop::hop(104, bytes);
    });
}
