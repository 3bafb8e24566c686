//! Deliberate leaks in what is kept and shown: each is put into the evidence of a real call.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::judge::{Evidence, outputs};
use crate::log::{Capture, Log};
use crate::party::{Party, Side};
use sip_tests::leak::disguise::Disguise;
use std::sync::Arc;

type Plant = fn(&mut Evidence, &Party);

/// Name, what is done, where the judge says it is.
#[rustfmt::skip]
const KEPT: &[(&str, Plant, &str)] = &[
    ("LIST chunk before the sound", |evidence, party| {
        let list = chunk(b"LIST", format!("INFOINAM{}", party.number).as_bytes());
        wav(evidence).splice(12..12, list);
    }, "the file"),
    ("bext chunk behind the sound, in UTF-16", |evidence, party| {
        let text = Disguise::Utf16Le.apply(&party.number, 0).unwrap();
        let bext = chunk(b"bext", &text);
        wav(evidence).extend(bext);
    }, "the file"),
    ("bytes behind the last chunk", |evidence, party| {
        let text = Disguise::Packed.apply(&party.number, 0).unwrap();
        wav(evidence).extend([b"xx".as_slice(), &text].concat());
    }, "the file"),
    ("text in the middle of the sound", |evidence, party| {
        let file = wav(evidence);
        let at = file.len() / 2;
        file.splice(at..at, party.stem.bytes());
    }, "the file"),
    ("title of the mixed recording, in UTF-16 (ID3v2)", |evidence, party| {
        let title = [b"\x01".as_slice(), &Disguise::Utf16Be.apply(&party.number, 0).unwrap()].concat();
        let size = |length: usize| u32::try_from(length).unwrap().to_be_bytes();
        let frame = [b"TIT2".as_slice(), &size(title.len()), b"\0\0", &title].concat();
        let tag = [b"ID3\x03\0\0".as_slice(), &size(frame.len()), &frame].concat();
        file_of(evidence, ".mp3").splice(0..0, tag);
    }, "the file"),
    ("artist of the mixed recording (ID3v1)", |evidence, party| {
        let mut tag = [b"TAG".as_slice(), &[0; 30], party.stem.as_bytes()].concat();
        tag.resize(128, 0);
        file_of(evidence, ".mp3").extend(tag);
    }, "the file"),
    ("comment of the encoder, in hexadecimal", |evidence, party| {
        let text = Disguise::Hex.apply(&party.number, 0).unwrap();
        let file = file_of(evidence, ".mp3");
        file.splice(200..200, text);
    }, "the file"),
    ("party in a callback of another session", |evidence, party| {
        told(evidence, "another session").push_str(&format!("From={}&To=", party.number));
    }, "told to another session"),
    ("escaped name in a callback of another account", |evidence, party| {
        let text = Disguise::Percent.apply(&party.number, 0).unwrap();
        told(evidence, "another account").push_str(&String::from_utf8(text).unwrap());
    }, "told to another account"),
    ("event of the owner in another account's list", |evidence, party| {
        let page = evidence.pages.iter_mut().find(|(page, _)| page.contains("OTHER0002/Event/")).unwrap();
        page.1.push_str(&format!("{{\"parameters\":{{\"To\":\"{}\"}}}}", party.number));
    }, "Event/"),
    ("whom a prompt is for, in its request", |evidence, party| {
        told(evidence, "prompts").push_str(&format!("Referer: sip:{}@x\r\n", party.number));
    }, "asked for prompts"),
    ("number in a file's name", |evidence, party| {
        let path = &mut evidence.files[0].0;
        *path = path.replace("-leg", &format!("-{}", party.number)).replace(".json", &format!("-{}", party.number));
    }, "the path"),
    ("number in a folder's name", |evidence, party| {
        let hex = Disguise::Hex.apply(&party.number, 0).unwrap();
        evidence.files[0].0.insert_str(0, &format!("{}/", String::from_utf8(hex).unwrap()));
    }, "the path"),
    ("caller in the manifest", |evidence, party| {
        let (_, content) = evidence.files.iter_mut().find(|(path, _)| path.ends_with("call.json")).unwrap();
        content.extend(format!("{{\"caller\":\"{}\"}}", party.number).bytes());
    }, "the file"),
    ("trace line with the national number", |evidence, party| {
        let national = String::from_utf8(Disguise::National.apply(&party.number, 0).unwrap()).unwrap();
        logged(evidence, || tracing::trace!(target: "maskline::call", "dialled {national}"));
    }, "the log"),
    ("field of a debug event", |evidence, party| {
        logged(evidence, || tracing::debug!(target: "maskline::store", party = %party.number, "stored"));
    }, "the log"),
    ("field of a span", |evidence, party| {
        logged(evidence, || drop(tracing::info_span!(target: "maskline", "call", name = party.stem)));
    }, "the log"),
    ("value recorded in a span later", |evidence, party| {
        logged(evidence, || {
            let span = tracing::error_span!(target: "maskline", "call", to = tracing::field::Empty);
            span.record("to", party.number.as_str());
        });
    }, "the log"),
    ("statement of the database with its values", |evidence, party| {
        logged(evidence, || tracing::debug!(target: "sqlx::query", "INSERT … VALUES ({:?})", party.number));
    }, "the log"),
    ("label of a metric", |evidence, party| {
        let metrics = &mut evidence.pages[0].1;
        metrics.push_str(&format!("maskline_calls_total{{caller=\"{}\"}} 1\n", party.number));
    }, "/metrics"),
    ("call of the owner in another account's list", |evidence, party| {
        let page = evidence.pages.iter_mut().find(|(page, _)| page.contains("OTHER0002/Call/")).unwrap();
        page.1.push_str(&format!("{{\"from_number\":\"{}\"}}", party.number));
    }, "Call/"),
    ("text of a 404", |evidence, party| {
        let page = evidence.pages.iter_mut().find(|(page, _)| page.contains("DELETE")).unwrap();
        page.1 = page.1.replace("not found", &format!("of {} not found", party.number));
        page.1.push_str(&format!("{{\"error\":\"no session of {}\"}}", party.number));
    }, "DELETE"),
];

/// How many there are, and which of them the judge does not find.
pub fn missed(honest: &Evidence) -> (usize, Vec<String>) {
    let mut missed = vec![];
    for (index, (name, plant, place)) in KEPT.iter().enumerate() {
        let party = Party::drawn(Side::Caller, 9_000_000 + u64::try_from(index).unwrap(), false);
        assert_eq!(outputs(honest, &party.marks()), [], "{name}, before it was put in");
        let mut evidence = honest.clone();
        plant(&mut evidence, &party);
        let found = outputs(&evidence, &party.marks());
        if found.is_empty() || !found.iter().all(|(at, _)| at.contains(place)) {
            missed.push(format!("{name}: {found:?}"));
        }
    }
    (KEPT.len(), missed)
}

fn wav(evidence: &mut Evidence) -> &mut Vec<u8> {
    file_of(evidence, ".wav")
}

fn file_of<'a>(evidence: &'a mut Evidence, kind: &str) -> &'a mut Vec<u8> {
    &mut evidence.files.iter_mut().find(|(path, _)| path.ends_with(kind)).unwrap().1
}

fn told<'a>(evidence: &'a mut Evidence, whom: &str) -> &'a mut String {
    &mut evidence.pages.iter_mut().find(|(page, _)| page.ends_with(whom)).unwrap().1
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    let padding: &[u8] = if content.len() % 2 == 1 { &[0] } else { &[] };
    [kind, length.as_slice(), content, padding].concat()
}

fn logged(evidence: &mut Evidence, write: impl FnOnce()) {
    let log = Arc::new(Log::default());
    tracing::subscriber::with_default(Capture(Arc::clone(&log)), write);
    evidence.log.extend(log.text());
}
