//! Reading contents through a shared access signature, as from blob storage: a fixed VHD, that is
//! the disk's bytes followed by a footer of 512 bytes.

use bytes::Bytes;
use http::Method;

use super::reply::{Body, ContentPart, Reply};
use super::router::Scope;
use crate::content::Contents;
use crate::signing::Signer;
use crate::world::Volume;

const FOOTER: u64 = 512;

/// Path and query of the URL that reads a content.
pub(super) fn path_of_content(signer: &Signer, volume: &Volume, grant: &str) -> String {
    let unique_id = &volume.unique_id;
    let signature = signer.sign(&format!("content {unique_id} {grant}"));
    format!("/sas/{unique_id}/abcd?sv=2018-03-28&sr=b&si={grant}&sig={signature}")
}

fn refused(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    let mut reply = Reply::empty(status).header("x-ms-error-code", code);
    reply.body = Body::Text("application/xml", body);
    reply
}

/// GET or HEAD of a content, whole or in part.
pub(super) fn read(scope: &Scope<'_>) -> Reply {
    let request = scope.request;
    if request.lower.get(1).map(String::as_str) == Some("boot") {
        return scope.boot_log();
    }
    let unique_id = request.segments.get(1).map(String::as_str).unwrap_or_default();
    let grant = request.param("si").unwrap_or_default();
    let text = format!("content {unique_id} {grant}");
    let signed = scope.signer.verify(&text, request.param("sig").unwrap_or_default());
    let granted = scope.world.granted(unique_id, grant, scope.now).filter(|_| signed);
    let Some((file, size)) = granted else {
        return refused(
            403,
            "AuthenticationFailed",
            "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.",
        );
    };
    let total = size + FOOTER;
    let described = |reply: Reply| {
        reply
            .header("x-ms-version", "2018-03-28")
            .header("x-ms-blob-type", "PageBlob")
            .header("accept-ranges", "bytes")
            .header("etag", format!("\"0x{}\"", &unique_id.replace('-', "")[..15].to_uppercase()))
    };
    match (&request.method, request.param("comp")) {
        (&Method::GET, Some("pagelist")) => described(page_list(scope.contents, &file, size))
            .header("x-ms-blob-content-length", total.to_string()),
        (&Method::HEAD, None) => {
            described(Reply::empty(200)).header("content-length", total.to_string())
        }
        (&Method::GET, None) => {
            let range = request.header("x-ms-range").or_else(|| request.header("range"));
            let (status, first, last) = match range.map(|range| parse_range(range, total)) {
                None => (200, 0, total - 1),
                Some(Some((first, last))) => (206, first, last),
                Some(None) => {
                    return refused(
                        416,
                        "InvalidRange",
                        "The range specified is invalid for the current size of the resource.",
                    );
                }
            };
            let mut reply = described(Reply::empty(status));
            if status == 206 {
                reply = reply.header("content-range", format!("bytes {first}-{last}/{total}"));
            }
            let stop = last + 1;
            let tail = footer(size);
            let from = usize::try_from(first.saturating_sub(size)).unwrap_or(0);
            let to = usize::try_from(stop.saturating_sub(size)).unwrap_or(0);
            reply.body = Body::Content(ContentPart {
                name: file,
                offset: first.min(size),
                length: stop.min(size).saturating_sub(first),
                then: tail.slice(from.min(to)..to),
            });
            reply
        }
        _ => {
            refused(405, "UnsupportedHttpVerb", "The resource doesn't support specified Http Verb.")
        }
    }
}

/// First and last byte, both inclusive.
fn parse_range(text: &str, total: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let last = if last.is_empty() { total - 1 } else { last.parse::<u64>().ok()?.min(total - 1) };
    (first <= last).then_some((first, last))
}

/// `Get Page Ranges`: which parts hold data, in pages of 512 bytes.
fn page_list(contents: &dyn Contents, name: &str, size: u64) -> Reply {
    let ranges = match contents.data_ranges(name) {
        Ok(ranges) => ranges,
        Err(error) => {
            tracing::error!(name, %error, "cannot read a content");
            return refused(500, "InternalError", "The server encountered an internal error.");
        }
    };
    let mut xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList>".to_owned();
    for (offset, length) in ranges.into_iter().chain([(size, FOOTER)]) {
        let (start, end) = (offset / 512 * 512, (offset + length).div_ceil(512) * 512 - 1);
        xml.push_str(&format!("<PageRange><Start>{start}</Start><End>{end}</End></PageRange>"));
    }
    xml.push_str("</PageList>");
    let mut reply = Reply::empty(200);
    reply.body = Body::Text("application/xml", xml);
    reply
}

/// The footer of a fixed VHD.
fn footer(size: u64) -> Bytes {
    let mut footer = vec![0_u8; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[8..12].copy_from_slice(&2_u32.to_be_bytes());
    footer[12..16].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    footer[16..24].fill(0xff);
    footer[28..32].copy_from_slice(b"win ");
    footer[40..48].copy_from_slice(&size.to_be_bytes());
    footer[48..56].copy_from_slice(&size.to_be_bytes());
    footer[60..64].copy_from_slice(&2_u32.to_be_bytes());
    let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
    footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
    Bytes::from(footer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clipped_to_the_content() {
        assert_eq!(parse_range("bytes=0-3", 10), Some((0, 3)));
        assert_eq!(parse_range("bytes=8-100", 10), Some((8, 9)));
        assert_eq!(parse_range("bytes=4-", 10), Some((4, 9)));
        assert_eq!(parse_range("bytes=10-12", 10), None);
        assert_eq!(parse_range("items=0-3", 10), None);
    }
}
