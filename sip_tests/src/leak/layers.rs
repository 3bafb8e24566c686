//! What a text may hide: every layer that can be taken off it.

use std::borrow::Cow;

/// Stands between texts that were decoded apart and must not seem to be one.
const APART: &[u8] = b"\n\xff\n";

/// Every way in which `bytes` may hide another text.
pub(super) fn layers(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut layers = vec![];
    let mut add = |name, layer: Cow<'_, [u8]>| {
        if layer != bytes && !layer.is_empty() {
            layers.push((name, layer.into_owned()));
        }
    };
    add("url-escaped", unescape(bytes, b"%", 2));
    add("quoted-printable", unescape(&without(bytes, &[b"=\r\n", b"=\n"]), b"=", 2).into_owned().into());
    add("\\x-escaped", unescape(bytes, b"\\x", 2));
    add("\\u-escaped", unescape(bytes, b"\\u00", 2));
    add("html-escaped", html(bytes).into());
    add("quoted pairs", without(bytes, &[b"\\"]));
    for unfolded in unfolded(bytes) {
        add("folded", unfolded.into());
    }
    if bytes.windows(4).any(|w| matches!(w, [0, a, 0, b] | [a, 0, b, 0] if *a != 0 && *b != 0)) {
        add("utf-16", bytes.iter().copied().filter(|byte| *byte != 0).collect::<Vec<_>>().into());
    }
    // Long base64 is wrapped, in bodies at 76 columns, and lines of headers are folded.
    let unwrapped = without(bytes, &[b"\r\n ", b"\r\n\t", b"\r\n", b"\n"]);
    let texts = runs(&unwrapped, 8, |b| b.is_ascii_alphanumeric() || b"+/-_".contains(&b));
    for offset in 0..4 {
        add("base64", decoded(&texts, offset, base64_decode).into());
    }
    // `34:39:31` is hexadecimal too.
    let spaced = runs(bytes, 10, |b| b.is_ascii_hexdigit() || b":- ".contains(&b));
    let texts: Vec<Vec<u8>> = spaced
        .into_iter()
        .map(|run| run.iter().copied().filter(u8::is_ascii_hexdigit).collect())
        .filter(|run: &Vec<u8>| run.len() >= 10)
        .collect();
    let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    for offset in 0..2 {
        add("hex", decoded(&texts, offset, hex_decode).into());
    }
    layers
}

fn decoded(texts: &[&[u8]], offset: usize, decode: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut all = vec![];
    for text in texts {
        all.extend(decode(text.get(offset..).unwrap_or_default()));
        all.extend_from_slice(APART);
    }
    all
}

/// `bytes` without separators between digits: up to three of them in a row.
pub(super) fn join_digits(bytes: &[u8]) -> Vec<u8> {
    let mut joined: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut separators = 0;
    for byte in bytes {
        if byte.is_ascii_digit() {
            let kept = joined.len() - separators;
            if separators <= 3
                && kept.checked_sub(1).and_then(|i| joined.get(i)).is_some_and(u8::is_ascii_digit)
            {
                joined.truncate(kept);
            }
            separators = 0;
        } else if b" -./()_~\t,".contains(byte) {
            separators += 1;
        } else {
            separators = 0;
        }
        joined.push(*byte);
    }
    joined
}

/// Folded lines in one (RFC 3261 §7.3.1), with nothing where the fold was and with one space; none when no line
/// is folded.
pub(super) fn unfolded(bytes: &[u8]) -> Vec<Vec<u8>> {
    let is_fold = |pair: &[u8]| matches!(pair, [b'\n', b' ' | b'\t']);
    if !bytes.windows(2).any(is_fold) {
        return vec![];
    }
    let unfold = |by: &[u8]| {
        let (mut out, mut rest): (Vec<u8>, &[u8]) = (Vec::with_capacity(bytes.len()), bytes);
        while let Some((first, after)) = rest.split_first() {
            if rest.get(..2).is_some_and(is_fold) {
                if out.last() == Some(&b'\r') {
                    out.pop();
                }
                out.extend_from_slice(by);
                rest = after.trim_ascii_start();
            } else {
                out.push(*first);
                rest = after;
            }
        }
        out
    };
    vec![unfold(b""), unfold(b" ")]
}

fn runs(bytes: &[u8], least: usize, of: impl Fn(u8) -> bool) -> Vec<&[u8]> {
    bytes.split(|byte| !of(*byte)).filter(|run| run.len() >= least).collect()
}

/// Leaves out each of `these`; the first that fits is taken.
fn without<'a>(bytes: &'a [u8], these: &[&[u8]]) -> Cow<'a, [u8]> {
    if !these.iter().any(|this| crate::message::find(bytes, this).is_some()) {
        return Cow::Borrowed(bytes);
    }
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, after)) = rest.split_first() {
        rest = match these.iter().find_map(|this| rest.strip_prefix(*this)) {
            Some(tail) => tail,
            None => {
                out.push(*first);
                after
            }
        };
    }
    Cow::Owned(out)
}

/// Replaces `prefix` and two hex digits by their byte.
fn unescape<'a>(bytes: &'a [u8], prefix: &[u8], digits: usize) -> Cow<'a, [u8]> {
    if crate::message::find(bytes, prefix).is_none() {
        return Cow::Borrowed(bytes);
    }
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, after)) = rest.split_first() {
        let escaped = rest.strip_prefix(prefix).and_then(|tail| tail.split_at_checked(digits));
        match escaped {
            Some((hex, tail)) if hex.iter().all(u8::is_ascii_hexdigit) => {
                out.extend(hex_decode(hex));
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}

/// Replaces `&#52;` and `&#x34;` by their character.
fn html(bytes: &[u8]) -> Vec<u8> {
    if crate::message::find(bytes, b"&#").is_none() {
        return vec![];
    }
    let (mut out, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some((first, after)) = rest.split_first() {
        let entity = rest.strip_prefix(b"&#").and_then(|tail| {
            let end = tail.iter().take(8).position(|byte| *byte == b';')?;
            let text = std::str::from_utf8(tail.get(..end)?).ok()?;
            let code = match text.strip_prefix(['x', 'X']) {
                Some(hex) => u8::from_str_radix(hex, 16).ok()?,
                None => text.parse().ok()?,
            };
            Some((code, tail.get(end + 1..)?))
        });
        match entity {
            Some((code, tail)) => {
                out.push(code);
                rest = tail;
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

pub(super) fn hex_decode(text: &[u8]) -> Vec<u8> {
    let value = |byte: u8| char::from(byte).to_digit(16).and_then(|v| u8::try_from(v).ok());
    text.chunks_exact(2)
        .filter_map(|pair| match pair {
            [high, low] => Some((value(*high)? << 4) | value(*low)?),
            _ => None,
        })
        .collect()
}

fn base64_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            _ => 63,
        };
        bits = ((bits << 6) | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).unwrap_or_default());
        }
    }
    out
}
