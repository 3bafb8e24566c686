//! The ring on loopback. Where the kernel refuses one, the tests have nothing to say; `trial` tells why.

use super::*;
use crate::engine::io;

fn rings() -> Vec<Ring> {
    match trial() {
        Ok(_) => [Sockets::Registered, Sockets::Plain].map(|sockets| Ring::new(sockets).unwrap()).into(),
        Err(refusal) => {
            eprintln!("no ring here: {refusal}");
            vec![]
        }
    }
}

fn ring() -> Option<Ring> {
    rings().pop()
}

fn pair(address: std::net::IpAddr) -> [UdpSocket; 2] {
    [io::bind(address, 0).unwrap(), io::bind(address, 0).unwrap()]
}

fn phone() -> UdpSocket {
    let phone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    phone.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket2::SockRef::from(&phone).set_recv_buffer_size(400 * 1024).unwrap();
    phone
}

/// What came, as token, bytes and error; receive operations that ended are begun again.
fn harvest(ring: &mut Ring, seats: &[Seat]) -> Vec<(u64, Vec<u8>, Option<i32>)> {
    let mut found = vec![];
    while let Some(completion) = ring.next() {
        match completion {
            Completion::Received { token, datagram, ended, error } => {
                let bytes = datagram.map(|datagram| ring.open(datagram).0.to_vec());
                found.push((token, bytes.unwrap_or_default(), error));
                if let Some(seat) = seats.iter().find(|seat| ended && seat.token == token) {
                    assert!(ring.receive(*seat));
                    ring.hurry();
                }
            }
            Completion::Unsent { .. } => panic!("{completion:?}"),
        }
    }
    ring.settle().unwrap();
    found
}

#[test]
fn datagrams_pass_with_their_addresses_in_both_families() {
    let mut rings = rings();
    let cases = |ring| [(ring, 2, "127.0.0.1"), (ring, 4, "::1")];
    for (ring, place, address) in (0..rings.len()).flat_map(cases) {
        let ring = &mut rings[ring];
        let address: std::net::IpAddr = address.parse().unwrap();
        let Ok(phone) = UdpSocket::bind((address, 0)) else { continue };
        phone.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let [one, other] = pair(address);
        let tokens = [(7 << 32) | 4, (7 << 32) | 6];
        let taken = ring.take_over(place, [&one, &other], tokens).unwrap();
        assert_eq!(taken.receiving, [true, true]);
        let to = other.local_addr().unwrap();
        for round in 0..3u8 {
            phone.send_to(&[round; 172], to).unwrap();
            ring.tick(1, Duration::from_secs(10)).unwrap();
            let Some(Completion::Received { token, datagram: Some(datagram), ended: false, error: None }) =
                ring.next()
            else {
                panic!("{address}");
            };
            assert_eq!(token, tokens[1]);
            let (bytes, from, sender) = ring.open(datagram);
            assert_eq!((&*bytes, from), (&[round; 172][..], phone.local_addr().ok()));
            assert!(sender.send(taken.seats[0], &[round + 1; 172], phone.local_addr().unwrap(), true));
            assert_eq!(ring.next(), None);
            ring.tick(1, Duration::from_millis(1)).unwrap();
            let mut buffer = [0; 2048];
            let (length, from) = phone.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&[round + 1; 172][..], one.local_addr().unwrap()));
        }
    }
}

#[test]
fn buffers_that_run_out_lose_nothing_and_become_more() {
    let Some(mut ring) = ring() else { return };
    let [one, other] = pair(Ipv4Addr::LOCALHOST.into());
    let seats = ring.take_over(0, [&one, &other], [0, 2]).unwrap().seats;
    ring.tick(1, Duration::from_millis(1)).unwrap();
    let phone = phone();
    // As many as fit into any socket's buffer.
    for number in 0..200u8 {
        phone.send_to(&[number], one.local_addr().unwrap()).unwrap();
        phone.send_to(&[number], other.local_addr().unwrap()).unwrap();
    }
    let (mut heard, mut starved) = ([vec![], vec![]], 0);
    while heard[0].len() + heard[1].len() < 400 {
        ring.tick(usize::MAX, Duration::from_millis(10)).unwrap();
        for (token, bytes, error) in harvest(&mut ring, &seats) {
            match error {
                None => heard[usize::from(token == 2)].extend(bytes),
                Some(libc::ENOBUFS) => starved += 1,
                Some(error) => panic!("{error}"),
            }
        }
    }
    assert_eq!(heard, [(0..200).collect::<Vec<u8>>(), (0..200).collect()], "all of them, in order");
    assert!(starved > 0 && ring.buffers.posted > FIRST_BUFFERS, "{starved} {}", ring.buffers.posted);
    assert_eq!(ring.receiving, 2);
}

#[test]
fn an_empty_datagram_ends_one_operation_and_no_more() {
    let Some(mut ring) = ring() else { return };
    let [one, other] = pair(Ipv4Addr::LOCALHOST.into());
    let seats = ring.take_over(0, [&one, &other], [0, 2]).unwrap().seats;
    let phone = phone();
    for bytes in [&b"a"[..], b"", b"b", b"", b"", b"c"] {
        phone.send_to(bytes, one.local_addr().unwrap()).unwrap();
    }
    let mut heard = vec![];
    while heard.len() < 6 {
        ring.tick(1, Duration::from_millis(10)).unwrap();
        heard.extend(harvest(&mut ring, &seats).into_iter().map(|found| found.1));
    }
    assert_eq!(heard, [&b"a"[..], b"", b"b", b"", b"", b"c"]);
}

#[test]
fn a_datagram_longer_than_a_buffer_has_no_bytes() {
    let Some(mut ring) = ring() else { return };
    let [one, other] = pair(Ipv4Addr::LOCALHOST.into());
    let seats = ring.take_over(0, [&one, &other], [0, 2]).unwrap().seats;
    let phone = phone();
    let longest = BUFFER - HEAD - NAME;
    for length in [longest, longest + 1, 9000] {
        phone.send_to(&vec![7; length], one.local_addr().unwrap()).unwrap();
    }
    let mut heard = vec![];
    while heard.len() < 3 {
        ring.tick(1, Duration::from_millis(10)).unwrap();
        heard.extend(harvest(&mut ring, &seats).into_iter().map(|found| found.1.len()));
    }
    assert_eq!(heard, [longest, 0, 0]);
}

#[test]
fn what_is_not_sent_is_told_and_the_rest_leaves() {
    let Some(mut ring) = ring() else { return };
    let [one, other] = pair(Ipv4Addr::LOCALHOST.into());
    let [seat, _] = ring.take_over(0, [&one, &other], [0, 2]).unwrap().seats;
    let phone = phone();
    let to = phone.local_addr().unwrap();
    let broadcast = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
    // More than there are places: some leave before the rest is queued.
    for number in 0..270u16 {
        let (to, relayed) = if number % 90 == 89 { (broadcast, number == 89) } else { (to, true) };
        assert!(ring.sender.send(seat, &number.to_be_bytes(), to, relayed));
    }
    assert!(!ring.sender.send(seat, &[0; SEND_ROOM], to, true), "longer than any packet");
    ring.tick(1, Duration::from_millis(1)).unwrap();
    let mut told = vec![];
    while let Some(completion) = ring.next() {
        let Completion::Unsent { token: 0, relayed, error: libc::EACCES } = completion else {
            panic!("{completion:?}");
        };
        told.push(relayed);
    }
    assert_eq!(told, [true, false, false]);
    for number in (0..270u16).filter(|number| number % 90 != 89) {
        let mut buffer = [0; 8];
        assert_eq!(phone.recv(&mut buffer).unwrap(), 2);
        assert_eq!(buffer[..2], number.to_be_bytes());
    }
}

#[test]
fn a_port_is_free_when_the_operations_on_it_have_ended() {
    let mut rings = rings();
    for (index, round) in (0..rings.len()).flat_map(|ring| (0..10u64).map(move |round| (ring, round))) {
        let ring = &mut rings[index];
        // Another call goes on all the while, as on Linux up to 6.12 it would hold what is registered.
        let stays = pair(Ipv4Addr::LOCALHOST.into());
        if round == 0 {
            ring.take_over(2, [&stays[0], &stays[1]], [1 << 60, (1 << 60) | 2]).unwrap();
        }
        let [one, other] = pair(Ipv4Addr::LOCALHOST.into());
        let port = one.local_addr().unwrap().port();
        let tokens = [round << 32, (round << 32) | 2];
        ring.take_over(0, [&one, &other], tokens).unwrap();
        ring.tick(1, Duration::from_millis(1)).unwrap();
        phone().send_to(b"late", one.local_addr().unwrap()).unwrap();
        ring.release(0, tokens.into_iter());
        let mut ended = vec![];
        while ended.len() < 2 {
            ring.tick(1, Duration::from_secs(10)).unwrap();
            while let Some(completion) = ring.next() {
                let Completion::Received { token, ended: over, .. } = completion else {
                    panic!("{completion:?}")
                };
                assert_eq!(token >> 32, round, "of this call and no other");
                ended.extend(over.then_some(token));
            }
        }
        ended.sort_unstable();
        assert_eq!(ended, tokens);
        assert_eq!(ring.receiving, 2);
        drop(one);
        let again = io::bind(Ipv4Addr::LOCALHOST.into(), port);
        assert!(again.is_ok() || (index == 0 && trial() == Ok(Sockets::Plain)), "{again:?}");
    }
}

#[test]
fn a_doze_ends_with_a_packet_or_with_epoll() {
    let Some(mut ring) = ring() else { return };
    let (wake, mut ready) = (io::Wake::new().unwrap(), vec![]);
    let mut poller = io::Poller::new(&wake).unwrap();
    let [one, other] = pair(Ipv4Addr::LOCALHOST.into());
    let seats = ring.take_over(0, [&one, &other], [0, 2]).unwrap().seats;
    let ages = Duration::from_secs(3600);
    for _ in 0..3 {
        phone().send_to(b"x", one.local_addr().unwrap()).unwrap();
        ring.doze(poller.as_fd(), ages).unwrap();
        assert_eq!(harvest(&mut ring, &seats), [(0, b"x".to_vec(), None)]);
        wake.wake();
        ring.doze(poller.as_fd(), ages).unwrap();
        assert_eq!(ring.next(), None);
        poller.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready, [io::WAKE]);
        wake.clear();
    }
    ring.doze(poller.as_fd(), Duration::from_millis(1)).unwrap();
    assert_eq!(ring.next(), None, "and by itself");
}

#[test]
fn addresses_are_read_as_they_were_written() {
    for address in ["192.0.2.1:5004", "[2001:db8::7]:65535", "[fe80::1%3]:1"] {
        let address: SocketAddr = address.parse().unwrap();
        let mut name = [0xff; NAME];
        let length = write_address(address, &mut name);
        assert_eq!(length, if address.is_ipv4() { 16 } else { 28 });
        assert_eq!(read_address(&name), Some(address));
    }
    assert_eq!(read_address(&[0; NAME]), None);
}

#[test]
fn refusals_say_what_an_operator_can_do() {
    let at = |error| Refusal::at("step")(io_error(error)).to_string();
    assert_eq!(at(libc::ENOSYS), "the kernel has no io_uring");
    assert!(at(libc::EPERM).contains("forbidden"), "{}", at(libc::EPERM));
    assert_eq!(at(libc::EINVAL), "the kernel's io_uring is too old: step is missing");
    assert!(at(libc::ENOMEM).starts_with("io_uring cannot be set up: step: "), "{}", at(libc::ENOMEM));
}

fn io_error(error: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(error)
}
