use super::disguise::Disguise;
use super::*;

const NUMBER: &str = "4915112345678";

fn marks() -> Marks {
    Marks::default()
        .number("+4915112345678")
        .name("Wanda Ünlü")
        .host("10.11.12.13")
        .host("pbx.wanda.example")
        .id("f81d4fae-7dec-11d0-a765-00a0c91e6bf6")
}

fn base64(text: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in text.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63]));
        }
    }
    out
}

fn hex(text: &[u8]) -> String {
    text.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[test]
fn a_number_is_found_in_every_disguise() {
    let utf16: Vec<u8> = NUMBER.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let each = |prefix: &str| NUMBER.bytes().map(|b| format!("{prefix}{b:02x}")).collect::<String>();
    let disguises: Vec<(&str, Vec<u8>)> = vec![
        ("plain", "P-Asserted-Identity: <tel:+4915112345678>".into()),
        ("national", "From: <sip:015112345678@h>".into()),
        ("digits separated", "Subject: call (0151) 123-456.78 now".into()),
        ("subscriber number", "X: 2345678;".into()),
        ("reversed", "8.7.6.5.4.3.2.1.1.5.1.9.4.e164.arpa".into()),
        ("url-escaped", each("%").into()),
        ("quoted-printable", each("=").into()),
        ("\\u-escaped", each("\\u00").into()),
        ("\\x-escaped", each("\\x").into()),
        ("html-escaped", NUMBER.bytes().map(|b| format!("&#{b};")).collect::<String>().into()),
        ("utf-16", utf16),
        ("base64", format!("Identity: {}", base64(b"{\"orig\":{\"tn\":\"4915112345678\"}}")).into()),
        ("base64", format!("tag=xx{}", base64(b"sip:4915112345678@h")).into()),
        ("hex", format!("User-to-User: {};encoding=hex", hex(NUMBER.as_bytes())).into()),
        ("url-escaped → digits separated", "?Subject=0151%20123%2045%20678".into()),
        ("base64 → hex", base64(hex(NUMBER.as_bytes()).as_bytes()).into()),
        ("packed digits, swapped", vec![1, 2, 0x94, 0x51, 0x11, 0x32, 0x54, 0x76, 0xf8]),
        ("packed digits", vec![0x49, 0x15, 0x11, 0x23, 0x45, 0x67, 0x8f]),
        ("binary integer", 4_915_112_345_678u64.to_be_bytes().to_vec()),
    ];
    for (encoding, text) in disguises {
        let found = find(&text, &marks());
        assert!(found.iter().any(|f| f.encoding == encoding && f.mark == NUMBER), "{encoding}: {found:?}");
    }
}

#[test]
fn names_hosts_and_ids_are_found() {
    for (encoding, mark, text) in [
        ("plain", "Wanda Ünlü", "From: \"WANDA Ünlü\" <sip:x@y>".to_owned()),
        ("url-escaped", "Wanda Ünlü", "wanda%20%C3%9Cnl%c3%bc".to_owned()),
        ("plain", "pbx.wanda.example", "Via: SIP/2.0/UDP PBX.wanda.example".to_owned()),
        ("plain", "10.11.12.13", "c=IN IP4 10.11.12.13".to_owned()),
        ("dashed", "10.11.12.13", "ip-10-11-12-13.internal".to_owned()),
        ("hex → binary", "10.11.12.13", "000a0b0c0d0000".to_owned()),
        (
            "without dashes",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "F81D4FAE7DEC11D0A76500A0C91E6BF6".to_owned(),
        ),
    ] {
        let found = find(text.as_bytes(), &marks());
        assert!(
            found.iter().any(|f| f.encoding == encoding && f.mark == mark),
            "{encoding} {mark}: {found:?}"
        );
    }
}

#[test]
fn what_is_clean_stays_clean() {
    let clean = "INVITE sip:+33155512345@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK0123456789abcdef0123456789abcdef\r\n\
        From: <sip:+12025550100@127.0.0.1>;tag=00112233445566778899aabbccddeeff\r\nCall-ID: 4917abcdef4917abcdef\r\nCSeq: 12345 INVITE\r\n\
        User-Agent: maskline\r\nContent-Length: 0\r\n\r\nv=0\r\no=- 1234567890123 1 IN IP4 127.0.0.1\r\n";
    assert_eq!(find(clean.as_bytes(), &marks()), []);
}

#[test]
fn every_disguise_that_is_written_is_found_alone_and_among_others() {
    let marks = marks();
    let numbers = &marks.numbers;
    for disguise in Disguise::ALL {
        for mark in numbers.iter().chain(&marks.names).chain(&marks.hosts).chain(&marks.ids) {
            for skip in 0..3 {
                let Some(text) = disguise.apply(mark, skip) else { continue };
                let others: [(&[u8], &[u8]); 5] = [
                    (b"", b""),
                    (b"X: <sip:", b"@h>"),
                    (b"qz.", b".zq"),
                    (b"\x00\x01;", b";\x00"),
                    (b"qzx-", b"-y"),
                ];
                for (before, after) in others {
                    let text = [before, &text, after].concat();
                    let found = find(&text, &marks);
                    let shown = String::from_utf8_lossy(&text);
                    assert!(
                        found.iter().any(|f| f.mark == *mark),
                        "{disguise:?}+{skip} {mark}: {shown} {found:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_number_is_found_across_folded_and_wrapped_lines() {
    for text in [
        "Subject: +4915112\r\n 345678\r\n",
        "Subject: 0151 123\r\n\t45678",
        "X: NDkxNTExMj\r\n\tM0NTY3OA==",
        "Content-Transfer-Encoding: base64\r\n\r\nNDkxNTEx\r\nMjM0NTY3OA==\r\n",
        "=34=39=31=35=31=\r\n=31=32=33=34=35=36=37=38",
        "a=fingerprint:sha-256 34:39:31:35:31:31:32:33:34:35:36:37:38",
    ] {
        assert_eq!(find(text.as_bytes(), &marks()).len(), 1, "{text}");
    }
}

#[test]
fn digits_of_a_random_id_are_no_subscriber_number() {
    let marks = marks();
    assert_eq!(find(b"tag=ab2345678c;x", &marks), []);
    assert_eq!(find(b"tag=x2345678;y", &marks).len(), 1);
}
