//! The small change of SIP's grammar (RFC 3261 §25.1): tokens, quoted strings, lists, parameters, numbers,
//! folds.
//!
//! Every function is total, linear, and borrows from its input. None knows a header.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// Characters of a token (RFC 3261 §25.1).
const TOKEN: u8 = 1;
/// Of a host that is no IPv6 address. Underscores are no part of a host name, but common inside networks.
const HOST: u8 = 2;
/// Of a parameter's value. More than a token: hosts, IPv6 with or without brackets (RFC 5118 §4.5), and what peers put
/// there.
const VALUE: u8 = 4;

/// What each byte is. Most of a message is read byte by byte: one look, where comparing would be a dozen.
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let (mut left, mut byte): (&mut [u8], u8) = (&mut classes, 0);
    while let Some((class, others)) = left.split_first_mut() {
        let is_token = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
        let is_host = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_value = !byte.is_ascii_control() && !matches!(byte, b' ' | b';' | b',' | b'"' | b'<' | b'>');
        *class = (TOKEN * is_token as u8) | (HOST * is_host as u8) | (VALUE * is_value as u8);
        (left, byte) = (others, byte.wrapping_add(1));
    }
    classes
}

#[inline]
fn is(byte: u8, class: u8) -> bool {
    CLASSES.get(usize::from(byte)).is_some_and(|classes| classes & class != 0)
}

/// Whether the byte may be in a token (RFC 3261 §25.1).
#[inline]
pub(crate) fn is_token(byte: u8) -> bool {
    is(byte, TOKEN)
}

/// Whether the byte may be in a host that is no IPv6 address.
#[inline]
pub(crate) fn is_host(byte: u8) -> bool {
    is(byte, HOST)
}

/// Whether `text` holds none of the bytes that `bad` tells. All are looked at, so that the compiler can look
/// at many at once.
#[inline]
pub(crate) fn is_free_of(text: &str, bad: impl Fn(u8) -> bool) -> bool {
    !text.bytes().fold(false, |found, byte| found | bad(byte))
}

/// Linear white space, folds included.
#[inline]
pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without the blanks at its start.
pub(crate) fn trim_start(text: &str) -> &str {
    split_while(text, is_blank).1
}

/// Without the blanks at both ends.
pub(crate) fn trim(text: &str) -> &str {
    // Most values have none, and the general search is slow.
    match text.as_bytes() {
        [first, .., last] if !is_blank(*first) && !is_blank(*last) => text,
        _ => text.trim_matches([' ', '\t', '\r', '\n']),
    }
}

/// Splits where `accept` first refuses a byte. `accept` must treat the bytes of a multi-byte character alike.
#[inline]
pub(crate) fn split_while(text: &str, accept: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|b| !accept(b)).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Splits at the first `byte`, which is ASCII and goes to neither side.
#[inline]
pub(crate) fn split_at_byte(text: &str, byte: u8) -> Option<(&str, &str)> {
    let (before, rest) = text.split_at_checked(memchr(byte, text.as_bytes())?)?;
    Some((before, rest.get(1..)?))
}

/// Splits a quoted string, which must begin `text`, from what follows it (RFC 3261 §25.1); the quotes and the
/// backslashes are kept. `None` when it does not end.
pub(crate) fn split_quoted(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return text.split_at_checked(at + 1),
            _ => {}
        }
    }
    None
}

/// A quoted string's content without quotes and backslashes; other text as it is.
pub(crate) fn unquote(text: &str) -> Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else { return text.into() };
    if memchr(b'\\', inner.as_bytes()).is_none() {
        return inner.into();
    }
    let mut escaped = false;
    let plain = inner.chars().filter(|&c| {
        escaped = c == '\\' && !escaped;
        !escaped
    });
    plain.collect::<String>().into()
}

/// The first value of a comma-separated header, and the text after its comma; commas in quoted strings and in
/// `<>` separate nothing.
pub(crate) fn split_first(text: &str) -> (&str, Option<&str>) {
    if memchr(b',', text.as_bytes()).is_none() {
        return (trim(text), None);
    }
    let (mut quoted, mut escaped, mut angled) = (false, false, false);
    let comma = text.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' if !angled => quoted = !quoted,
            b'<' if !quoted => angled = true,
            b'>' if !quoted => angled = false,
            b',' => return !quoted && !angled,
            _ => {}
        }
        false
    });
    match comma.and_then(|at| text.split_at_checked(at)) {
        Some((value, rest)) => (trim(value), rest.strip_prefix(',')),
        None => (trim(text), None),
    }
}

/// The values of a comma-separated header.
pub(crate) fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (value, following) = split_first(rest?);
        rest = following;
        Some(value)
    })
}

/// The parameters of a header value: `;name`, `;name=token`, `;name="quoted"`, with blanks anywhere between.
/// Yields `None` once, at the end, when the text breaks that grammar.
pub(crate) fn params(text: &str) -> impl Iterator<Item = Option<(&str, Option<&str>)>> {
    let mut rest = trim(text);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let param = param(rest);
        rest = param.map_or("", |(_, _, following)| following);
        Some(param.map(|(name, value, _)| (name, value)))
    })
}

/// The first parameter: name, value, and what follows.
fn param(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let text = trim_start(text.strip_prefix(';')?);
    let (name, rest) = split_while(text, is_token);
    if name.is_empty() {
        return None;
    }
    let rest = trim_start(rest);
    let Some(value) = rest.strip_prefix('=') else { return Some((name, None, rest)) };
    let value = trim_start(value);
    let (value, rest) =
        if value.starts_with('"') { split_quoted(value)? } else { split_while(value, |b| is(b, VALUE)) };
    Some((name, Some(value), trim_start(rest)))
}

/// A decimal number of any length that does not exceed `limit`.
pub(crate) fn number(text: &str, limit: u32) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let significant = text.trim_start_matches('0');
    let value = if significant.is_empty() { Some(0) } else { significant.parse::<u32>().ok() };
    value.filter(|&v| digits && v <= limit)
}

/// A value without its folds, `None` when it has none: a fold and the blanks around it mean the same as one
/// space (RFC 3261 §7.3.1), and so does a stray CR.
pub(crate) fn unfold(value: &[u8]) -> Option<Vec<u8>> {
    memchr2(b'\r', b'\n', value)?;
    let mut plain = Vec::with_capacity(value.len());
    let mut folded = false;
    for &byte in value {
        if matches!(byte, b'\r' | b'\n') {
            if !folded {
                plain.truncate(plain.trim_ascii_end().len());
                plain.push(b' ');
            }
            folded = true;
        } else if !(folded && is_blank(byte)) {
            folded = false;
            plain.push(byte);
        }
    }
    Some(plain)
}
