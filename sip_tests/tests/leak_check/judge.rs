//! The judge: every byte that a side received, and everything that the service keeps or shows, searched for marks.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::calls::{ACCOUNTS, Scene};
use crate::common::{Server, folders};
use serde_json::json;
use sip_tests::leak::{Finder, Finding, Marks};
use sip_tests::transcript::Transcript;
use std::path::Path;

/// Names of headers that our messages may have.
#[rustfmt::skip]
const OUR_HEADERS: &[&str] = &[
    "via", "max-forwards", "route", "record-route", "from", "to", "call-id", "cseq", "contact", "allow",
    "accept", "supported", "unsupported", "retry-after", "reason", "recv-info", "timestamp", "server",
    "user-agent", "content-type", "content-length", "require", "rseq", "rack", "session-expires", "min-se",
];

/// Beginnings of lines that our descriptions may have.
#[rustfmt::skip]
const OUR_LINES: &[&str] = &[
    "v=0", "o=- ", "s=-", "c=IN IP4 127.0.0.1", "t=0 0", "m=audio ", "m=video 0 ", "m=message 0 ",
    "m=image 0 ", "m=application 0 ", "a=rtpmap:0 PCMU/8000", "a=rtpmap:8 PCMA/8000",
    "a=rtpmap:101 telephone-event/8000", "a=rtpmap:113 telephone-event/8000", "a=fmtp:101 0-15",
    "a=fmtp:113 0-15", "a=ptime:20", "a=sendrecv", "a=recvonly", "a=sendonly", "a=inactive",
];

/// What in the messages to `phone` is made of anything but what is listed, marked or not.
pub fn foreign(transcript: &Transcript, phone: &str) -> Vec<String> {
    let mut foreign = vec![];
    for message in transcript.messages_to(phone) {
        let mut strange = |what: &str| foreign.push(format!("{what} in {}", message.text()));
        for name in message.header_names() {
            if !OUR_HEADERS.contains(&name.as_str()) {
                strange(&name);
            }
        }
        if message.body().is_empty() {
            continue;
        }
        if message.header("Content-Type") != Some("application/sdp") {
            strange("another body");
        }
        for line in String::from_utf8_lossy(message.body()).lines() {
            if !OUR_LINES.iter().any(|ours| line.starts_with(ours)) {
                strange(line);
            }
        }
    }
    foreign
}

/// What the service keeps and shows beside SIP and RTP.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Path below the directory of recordings, and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Every level.
    pub log: Vec<u8>,
    /// Metrics, what others than the owner get over the API (what was asked for, what came), what other applications
    /// are told and what prompts are asked for with.
    pub pages: Vec<(String, String)>,
}

impl Evidence {
    pub async fn of(scene: &Scene, log: Vec<u8>, others: Vec<(String, String)>) -> Self {
        let directory = scene.server.folder.join("recordings");
        let mut files = vec![];
        for folder in folders(&directory) {
            collect(&directory, &folder, &mut files);
        }
        assert!(files.iter().filter(|(path, _)| path.ends_with(".wav")).count() >= 2, "calls were recorded");
        assert!(files.iter().any(|(path, _)| path.ends_with(".mp3")), "and mixed");
        assert!(others.iter().all(|(_, text)| !text.is_empty()), "{others:?}");
        Self { files, log, pages: [pages(scene).await, others].concat() }
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let below = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            files.push((below, std::fs::read(&path).unwrap()));
        }
    }
}

/// Metrics; and the owner's calls and sessions, asked for by another account, on its own paths and on the owner's,
/// and by nobody.
async fn pages(scene: &Scene) -> Vec<(String, String)> {
    let [(owner, _), other] = ACCOUNTS;
    let uuid = scene.session["session_uuid"].as_str().unwrap();
    let lists = ["Masking/Session/", "Call/", "Event/", "Recording/"].map(ToOwned::to_owned);
    let mut resources = [lists.to_vec(), vec![format!("Masking/Session/{uuid}/")]].concat();
    let calls = scene.server.api("GET", "Call/?limit=20", None).await.1;
    for call in calls["objects"].as_array().unwrap() {
        resources.push(format!("Call/{}/", call["call_uuid"].as_str().unwrap()));
    }
    for (list, name) in [("Event", "event_uuid"), ("Recording", "recording_id")] {
        let listed = scene.server.api("GET", &format!("{list}/"), None).await.1;
        let objects = listed["response"]["objects"].as_array().or(listed["objects"].as_array());
        for object in objects.unwrap_or_else(|| panic!("{listed}")).iter().take(3) {
            resources.push(format!("{list}/{}/", object[name].as_str().unwrap()));
        }
        assert!(resources.iter().any(|path| path.starts_with(list) && path.contains('-')), "{listed}");
    }
    // The owner sees his numbers, so that there is something to see.
    assert!(calls.to_string().contains(&scene.parties[0].number) && resources.len() >= 5, "{calls}");
    let metrics = scene.server.http("GET", "/metrics", None).await.1;
    assert!(metrics.contains("maskline_calls_total"));
    // The gateways stand there as the operator has configured them, and one of them is the callee's.
    let metrics: Vec<_> = metrics.lines().filter(|line| !line.starts_with("maskline_gateway_up{")).collect();
    let mut pages = vec![("/metrics".to_owned(), metrics.join("\n"))];
    let http = scene.server.service.http();
    for resource in resources {
        for (credentials, account) in
            [(other, other.0), (other, owner), (("", ""), owner), ((owner, "wrong"), owner)]
        {
            let path = format!("/v1/Account/{account}/{resource}");
            let (status, text) = Server::ask(http, credentials, "GET", &path, None).await;
            let own_list = account == other.0 && !resource.contains('-');
            assert!((status == 200) == own_list, "{} {path}: {status} {text}", credentials.0);
            pages.push((format!("{path} as {:?}", credentials.0), text));
        }
    }
    let path = format!("/v1/Account/{}/Masking/Session/{uuid}/", other.0);
    for (method, body) in [("POST", Some(json!({ "session_expiry": 9 }))), ("DELETE", None)] {
        let (status, text) = Server::ask(http, other, method, &path, body.as_ref()).await;
        assert!(status >= 400, "{status} {text}");
        pages.push((format!("{method} {path}"), text));
    }
    pages
}

/// Marks in what the service keeps and shows, and where they are.
pub fn outputs(evidence: &Evidence, marks: &Marks) -> Vec<(String, Finding)> {
    let finder = Finder::new(marks);
    let mut found = vec![];
    let mut look = |place: String, findings: Vec<Finding>| {
        found.extend(findings.into_iter().map(|finding| (place.clone(), finding)));
    };
    for (path, content) in &evidence.files {
        look(format!("the path {path}"), finder.find(path.as_bytes()));
        let findings = if path.ends_with(".wav") { sound(content, &finder) } else { finder.find(content) };
        look(format!("the file {path}"), findings);
    }
    for (page, text) in &evidence.pages {
        look(page.clone(), finder.find(text.as_bytes()));
    }
    for line in evidence.log.split(|byte| *byte == b'\n') {
        look("the log".to_owned(), finder.find(line));
    }
    found
}

/// A WAV file: every chunk and whatever stands behind the last one; of the sound itself, plain text only, as short
/// binary forms appear in it by chance.
fn sound(file: &[u8], finder: &Finder) -> Vec<Finding> {
    let Some(mut rest) = file.strip_prefix(b"RIFF").and_then(|rest| rest.get(8..)) else {
        return finder.find(file);
    };
    let mut found = finder.find_plain(file);
    while let Some(([kind @ .., a, b, c, d], after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let Some((content, after)) = after.split_at_checked(length) else { break };
        if kind != b"data" {
            found.extend(finder.find(kind));
            found.extend(finder.find(content));
        }
        rest = after.get(length % 2..).unwrap_or_default();
    }
    found.extend(finder.find(rest));
    found
}

pub fn shown(findings: &[(String, Finding)]) -> String {
    findings.iter().take(10).map(|(place, finding)| format!("  {place}: {finding}\n")).collect()
}
