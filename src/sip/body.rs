//! The SDP of a message, bare or inside `multipart/*` (RFC 5621). Every other body is ignored, and refused
//! when its handling is required; none is ever passed on (leaks.md rows 39–41).

use super::message::Head;
use bytes::Bytes;
use memchr::memmem;

/// Parts of a multipart body that are looked at.
const MAX_PARTS: usize = 16;

/// The session description; `None` when there is none.
///
/// # Errors
/// 415 when a body of another kind must be understood (RFC 3261 §20.11: handling is required by default).
pub fn sdp(head: &Head, body: &Bytes) -> Result<Option<Bytes>, u16> {
    if body.is_empty() {
        return Ok(None);
    }
    let optional = |disposition: Option<&str>| {
        disposition
            .is_some_and(|text| text.to_ascii_lowercase().replace(' ', "").contains("handling=optional"))
    };
    if head.header("Content-Encoding").is_some_and(|coding| !coding.trim().eq_ignore_ascii_case("identity")) {
        return Err(415);
    }
    let Some(content_type) = head.content_type() else { return Err(415) };
    if &*content_type == "application/sdp" {
        return Ok(Some(body.clone()));
    }
    if content_type.starts_with("multipart/") {
        let full = head.header("Content-Type").unwrap_or_default();
        let boundary = parameter(&full, "boundary").ok_or(415_u16)?;
        let mut found = None;
        for (kind, disposition, content) in parts(body, &boundary).ok_or(415_u16)? {
            if kind == "application/sdp" {
                found.get_or_insert(content);
            } else if !optional(disposition.as_deref()) {
                return Err(415);
            }
        }
        return Ok(found);
    }
    if optional(head.header("Content-Disposition").as_deref()) { Ok(None) } else { Err(415) }
}

/// `name=value` or `name="value"` of a header with parameters.
fn parameter(header: &str, name: &str) -> Option<String> {
    header.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

type Part = (String, Option<String>, Bytes);

/// Content type (lower case, without parameters), disposition and content of each part (RFC 2046 §5.1).
fn parts(body: &Bytes, boundary: &str) -> Option<Vec<Part>> {
    if boundary.is_empty() || boundary.len() > 70 {
        return None;
    }
    let delimiter = format!("--{boundary}");
    let starts: Vec<usize> = memmem::find_iter(body, &delimiter).take(MAX_PARTS + 1).collect();
    let mut parts = Vec::new();
    for pair in starts.windows(2) {
        let &[start, end] = pair else { continue };
        let section = body.slice(start.checked_add(delimiter.len())?..end);
        let (head_end, skip) = match memmem::find(&section, b"\r\n\r\n") {
            Some(at) => (at, 4),
            None => (memmem::find(&section, b"\n\n")?, 2),
        };
        let head = String::from_utf8_lossy(section.get(..head_end)?).into_owned();
        let mut content = section.slice(head_end.checked_add(skip)?..);
        // The line end before the delimiter belongs to the delimiter.
        for line_end in [b'\n', b'\r'] {
            if content.last() == Some(&line_end) {
                content.truncate(content.len() - 1);
            }
        }
        let field = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let kind = field("Content-Type").unwrap_or_else(|| "text/plain".to_owned());
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        parts.push((kind, field("Content-Disposition"), content));
    }
    Some(parts)
}
