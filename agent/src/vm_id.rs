//! Which machine this is: Azure's vmId, read from the machine and never from configuration.
//!
//! The instance metadata service is asked first. If it does not answer, the SMBIOS product UUID
//! stands in. **Byte order:** the first three groups of that UUID are little-endian since SMBIOS 2.6
//! and were big-endian before. Linux shows them by the version that the firmware claims; Azure's
//! generation-1 firmware claims 2.3, and Linux then shows them the other way round than Azure does
//! (Azure's own documentation says to swap them). So the groups are swapped when the SMBIOS entry
//! point says a version before 2.6, and taken as shown otherwise, also when the version cannot be
//! read. In addition [`VmId::is`] lets a SMBIOS id match in either order: that two machines' ids are
//! each other's swap does not happen, while a wrong guess would lock a machine out.

use std::path::Path;
use std::time::Duration;

use azdr_proto::agent::VmIdSource;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::metadata_authority;

const METADATA_LIMIT: Duration = Duration::from_secs(1);
const METADATA_PATH: &str = "/metadata/instance/compute?api-version=2021-02-01";
const ANSWER_LIMIT: u64 = 256 * 1024;

/// A vmId and where it is from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmId {
    /// GUID, lower case, in Azure's byte order as far as known.
    pub id: String,
    /// Where it was read.
    pub source: VmIdSource,
}

/// The machine does not say which one it is.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot read this machine's vmId: instance metadata at {url}: {metadata}; SMBIOS: {smbios}"
)]
pub struct UnknownVm {
    url: String,
    metadata: String,
    smbios: String,
}

impl VmId {
    /// Whether this machine is the one that Azure calls `enrolled`.
    pub fn is(&self, enrolled: &str) -> bool {
        let enrolled = enrolled.to_ascii_lowercase();
        self.id == enrolled
            || (self.source == VmIdSource::Smbios
                && swapped(&self.id).is_some_and(|id| id == enrolled))
    }

    /// The id as Azure writes it, when `enrolled` shows that this machine shows it the other way
    /// round.
    pub fn in_the_order_of(&self, enrolled: &str) -> String {
        if self.is(enrolled) { enrolled.to_ascii_lowercase() } else { self.id.clone() }
    }
}

/// Reads the vmId. `metadata_url` is from the configuration.
///
/// # Errors
/// Neither source has it; trying again later may help.
pub async fn read(metadata_url: &str) -> Result<VmId, UnknownVm> {
    let asked = timeout(METADATA_LIMIT, ask_metadata(metadata_url)).await;
    let metadata = match asked {
        Ok(Ok(id)) => return Ok(VmId { id, source: VmIdSource::InstanceMetadata }),
        Ok(Err(reason)) => reason,
        Err(_) => format!("no answer within {} s", METADATA_LIMIT.as_secs()),
    };
    match read_smbios(Path::new("/sys")) {
        Ok(id) => Ok(VmId { id, source: VmIdSource::Smbios }),
        Err(smbios) => Err(UnknownVm { url: metadata_url.to_owned(), metadata, smbios }),
    }
}

async fn ask_metadata(url: &str) -> Result<String, String> {
    let authority = metadata_authority(url).ok_or("not an allowed address")?;
    let words = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(&authority).await.map_err(words)?;
    let request = format!(
        "GET {METADATA_PATH} HTTP/1.1\r\nHost: {authority}\r\nMetadata: true\r\n\
         Accept: application/json\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(words)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer).await.map_err(words)?;
    vm_id_in_answer(&answer)
}

/// Finds the vmId in an HTTP/1.1 answer.
fn vm_id_in_answer(answer: &[u8]) -> Result<String, String> {
    let split = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("no HTTP answer")?;
    let (head, body) = answer.split_at(split);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.split_whitespace().nth(1).unwrap_or("no status");
    if status != "200" {
        return Err(format!("HTTP status {status}"));
    }
    let body = body.get(4..).unwrap_or_default();
    let body = match head.lines().any(|line| line.trim() == "transfer-encoding: chunked") {
        true => unchunked(body).ok_or("a cut answer")?,
        false => body.to_owned(),
    };
    let json: serde_json::Value =
        serde_json::from_slice(&body).map_err(|_| "the answer is not JSON")?;
    let id = json.get("vmId").and_then(serde_json::Value::as_str).ok_or("no vmId in the answer")?;
    guid(id).ok_or_else(|| format!("{id:?} is not a GUID"))
}

fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(body.get(..line)?).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        let start = line + 2;
        whole.extend_from_slice(body.get(start..start.checked_add(size)?)?);
        body = body.get(start + size + 2..)?;
    }
}

fn read_smbios(sys: &Path) -> Result<String, String> {
    let path = sys.join("class/dmi/id/product_uuid");
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let shown = guid(text.trim()).ok_or_else(|| format!("{:?} is not a GUID", text.trim()))?;
    let entry_point = std::fs::read(sys.join("firmware/dmi/tables/smbios_entry_point"));
    let old = entry_point.is_ok_and(|bytes| smbios_version(&bytes).is_some_and(|v| v < (2, 6)));
    Ok(if old { swapped(&shown).unwrap_or(shown) } else { shown })
}

/// Major and minor version in a SMBIOS entry point.
fn smbios_version(entry_point: &[u8]) -> Option<(u8, u8)> {
    let at = match entry_point {
        [b'_', b'S', b'M', b'3', b'_', ..] => 7,
        [b'_', b'S', b'M', b'_', ..] => 6,
        _ => return None,
    };
    Some((*entry_point.get(at)?, *entry_point.get(at + 1)?))
}

/// A GUID in lower case; `None` when it is not one.
pub fn guid(text: &str) -> Option<String> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let hexadecimal = groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()));
    (lengths == [8, 4, 4, 4, 12] && hexadecimal).then(|| text.to_ascii_lowercase())
}

/// The same GUID with the bytes of its first three groups in the other order.
fn swapped(guid: &str) -> Option<String> {
    let groups: Vec<&str> = guid.split('-').collect();
    let [a, b, c, d, e] = groups.as_slice() else { return None };
    let swap = |group: &str| -> Option<String> {
        (0..group.len()).step_by(2).rev().map(|at| group.get(at..at + 2)).collect()
    };
    Some(format!("{}-{}-{}-{d}-{e}", swap(a)?, swap(b)?, swap(c)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Azure's documentation.
    const SHOWN: &str = "090556DA-D4FA-764F-A9F1-63614EDA019A";
    const AZURES: &str = "da560509-fad4-4f76-a9f1-63614eda019a";

    fn machine(version: Option<(u8, u8)>) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        let id = sys.path().join("class/dmi/id");
        std::fs::create_dir_all(&id).unwrap();
        std::fs::write(id.join("product_uuid"), format!("{SHOWN}\n")).unwrap();
        if let Some((major, minor)) = version {
            let tables = sys.path().join("firmware/dmi/tables");
            std::fs::create_dir_all(&tables).unwrap();
            let bytes = [b"_SM_\0\0".as_slice(), &[major, minor]].concat();
            std::fs::write(tables.join("smbios_entry_point"), bytes).unwrap();
        }
        sys
    }

    #[test]
    fn old_firmwares_uuid_is_swapped_and_newer_ones_is_not() {
        assert_eq!(read_smbios(machine(Some((2, 3))).path()).unwrap(), AZURES);
        let shown = SHOWN.to_ascii_lowercase();
        assert_eq!(read_smbios(machine(Some((2, 8))).path()).unwrap(), shown);
        assert_eq!(read_smbios(machine(None).path()).unwrap(), shown);
        assert!(read_smbios(Path::new("/nonexistent")).unwrap_err().contains("product_uuid"));
    }

    #[test]
    fn an_id_from_smbios_matches_in_either_byte_order_and_one_from_metadata_does_not() {
        let shown = SHOWN.to_ascii_lowercase();
        let smbios = VmId { id: shown.clone(), source: VmIdSource::Smbios };
        assert!(smbios.is(AZURES) && smbios.is(SHOWN));
        assert_eq!(smbios.in_the_order_of(AZURES), AZURES);
        let metadata = VmId { id: shown, source: VmIdSource::InstanceMetadata };
        assert!(!metadata.is(AZURES) && metadata.is(SHOWN));
    }

    #[test]
    fn the_vm_id_is_found_in_plain_and_in_chunked_answers() {
        let json = format!("{{\"name\":\"vm\",\"vmId\":\"{SHOWN}\"}}");
        let plain = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}", json.len());
        assert_eq!(vm_id_in_answer(plain.as_bytes()).unwrap(), SHOWN.to_ascii_lowercase());
        let (a, b) = json.split_at(20);
        let chunked = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\n\r\n",
            b.len()
        );
        assert_eq!(vm_id_in_answer(chunked.as_bytes()).unwrap(), SHOWN.to_ascii_lowercase());
    }

    #[test]
    fn other_answers_say_what_is_wrong() {
        for (answer, expected) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "404"),
            ("HTTP/1.1 200 OK\r\n\r\n{}", "no vmId"),
            ("HTTP/1.1 200 OK\r\n\r\n{\"vmId\":\"../x\"}", "not a GUID"),
            ("HTTP/1.1 200 OK\r\n\r\n<html>", "not JSON"),
            ("", "no HTTP answer"),
        ] {
            let error = vm_id_in_answer(answer.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
