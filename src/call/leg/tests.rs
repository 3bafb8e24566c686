//! Where a leg's messages go, and over which connection.

use super::*;

const TRUNK: &str = "192.0.2.7:40000";

/// The way of an INVITE that came in by `protocol`.
fn route(protocol: Protocol, name: Option<&str>) -> Route {
    Route {
        protocol,
        peer: Some(TRUNK.parse().unwrap()),
        connection: protocol.is_reliable().then(|| ConnectionId::new(protocol, 1)),
        local: None,
        name: name.map(Arc::from),
    }
}

fn hop(route: &Route, target: &str) -> Hop {
    Leg::hop_to(route, Some(&Uri::parse(target).unwrap())).unwrap()
}

/// A connection by TCP and one by TLS may have the same number, and are those of two carriers then.
#[test]
fn a_connection_is_kept_only_for_what_is_spoken_over_it() {
    use Protocol::{Tcp, Tls, Udp};
    let table = [
        (Tls, "sip:a@192.0.2.7;transport=tcp", Tcp, false),
        (Tls, "sip:a@192.0.2.7;transport=udp", Udp, false),
        (Tls, "sip:a@192.0.2.7;transport=tls", Tls, true),
        (Tls, "sips:a@192.0.2.7", Tls, true),
        (Tls, "sip:a@192.0.2.7", Tls, true),
        (Tcp, "sip:a@192.0.2.7;transport=tls", Tls, false),
        (Tcp, "sips:a@192.0.2.7;transport=tcp", Tls, false),
        (Tcp, "sips:a@192.0.2.7", Tls, false),
        (Tcp, "sip:a@192.0.2.7;transport=TCP", Tcp, true),
        (Tcp, "sip:a@192.0.2.7", Tcp, true),
        (Udp, "sip:a@192.0.2.7;transport=tcp", Tcp, false),
    ];
    for (came_by, target, goes_by, kept) in table {
        let hop = hop(&route(came_by, None), target);
        let connection = kept.then(|| ConnectionId::new(came_by, 1));
        assert_eq!((hop.protocol, hop.connection), (goes_by, connection), "{came_by:?} {target}");
    }
}

/// RFC 5922 §4: the name by which a peer is reached is the one that it must prove.
#[test]
fn a_new_tls_connection_must_prove_the_right_name() {
    let gateway = route(Protocol::Tls, Some("sbc.example"));
    let table = [
        ("sip:192.0.2.7;transport=tls", Some("sbc.example")),
        ("sip:sbc.example;transport=tls", Some("sbc.example")),
        ("sip:edge.example;transport=tls;lr", Some("edge.example")),
        ("sips:edge.example", Some("edge.example")),
        ("sip:edge.example;transport=tcp", None),
    ];
    for (target, expected) in table {
        assert_eq!(hop(&gateway, target).name.as_deref(), expected, "{target}");
    }
    let caller = route(Protocol::Tls, None);
    assert_eq!(hop(&caller, "sip:192.0.2.7;transport=tls").name, None);
    assert_eq!(hop(&caller, "sip:edge.example").name.as_deref(), Some("edge.example"));
}

/// RFC 3261 §18.2.2, RFC 3581 §4: a connection that is gone is opened again to where the peer listens.
#[test]
fn a_response_goes_to_the_source_address_and_to_a_port_where_somebody_listens() {
    use Protocol::{Tcp, Tls, Udp};
    let table = [
        (Udp, "10.0.0.9:5080;rport", 40_000),
        (Udp, "10.0.0.9:5080", 5080),
        (Udp, "10.0.0.9", 5060),
        (Tcp, "10.0.0.9:5080;rport", 5080),
        (Tcp, "10.0.0.9:5080;maddr=203.0.113.9", 5080),
        (Tcp, "10.0.0.9", 5060),
        (Tls, "10.0.0.9", 5061),
        (Tls, "10.0.0.9:5080", 5080),
    ];
    for (protocol, via, port) in table {
        let text = format!(
            "OPTIONS sip:us@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/{} {via};branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:us@192.0.2.1>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\n\
             Content-Length: 0\r\n\r\n",
            protocol.via_name()
        );
        let Ok(Message::Request(request)) = Message::parse(Bytes::from(text)) else { panic!("{via}") };
        let connection = protocol.is_reliable().then(|| ConnectionId::new(protocol, 3));
        let flow = Flow {
            protocol,
            local: "192.0.2.1:5060".parse().unwrap(),
            peer: TRUNK.parse().unwrap(),
            connection,
        };
        let hop = response_hop(&request, &flow);
        assert_eq!(hop.address(), Some(SocketAddr::new(flow.peer.ip(), port)), "{protocol:?} {via}");
        assert_eq!(hop.connection, connection, "while it lives");
    }
}

/// A Contact that is no SIP URI says nothing of where its owner is: he is where he was last seen.
#[test]
fn a_target_that_is_no_sip_uri_leads_back_to_the_peer() {
    for contact in ["tel:+12025550143", "mailto:a@b.example"] {
        let text = format!(
            "INVITE sip:us@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\n\
             To: <sip:us@192.0.2.1>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n\
             Contact: <{contact}>\r\nContent-Length: 0\r\n\r\n"
        );
        let Ok(Message::Request(invite)) = Message::parse(Bytes::from(text)) else { panic!("{contact}") };
        let dialog = Dialog::as_uas(&invite, "ours", 1).unwrap();
        assert_eq!(dialog.next_hop(), None, "{contact}");
        let hop = Leg::hop_to(&route(Protocol::Udp, None), dialog.next_hop().as_ref()).unwrap();
        assert_eq!(hop.address(), Some(TRUNK.parse().unwrap()));
    }
}
