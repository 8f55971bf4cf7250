//! Unpacks a kernel so that the guest need not: half a second to a second of each emulated boot.
//!
//! Debian's cloud kernel is an LZ4 stream (the old, "legacy" frame) somewhere inside `vmlinuz`.

const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const ELF: &[u8] = b"\x7fELF";

/// The ELF file inside a `vmlinuz`; `None` when there is none that this code understands.
pub(super) fn uncompressed(vmlinuz: &[u8]) -> Option<Vec<u8>> {
    let starts = vmlinuz.windows(MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == MAGIC);
    for (start, _) in starts {
        if let Some(kernel) = legacy_frame(&vmlinuz[start + MAGIC.len()..])
            && kernel.starts_with(ELF)
        {
            return Some(kernel);
        }
    }
    None
}

/// Blocks, each after its size, until the kernel's build says how large all of them are together.
fn legacy_frame(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut unpacked = Vec::new();
    loop {
        let (size, after) = rest.split_first_chunk()?;
        let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
        if !unpacked.is_empty() && size == unpacked.len() {
            return Some(unpacked);
        }
        block(after.get(..size)?, &mut unpacked)?;
        rest = &after[size..];
    }
}

/// One LZ4 block, appended to `out`; matches reach back at most to the block's own beginning.
fn block(mut input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let begin = out.len();
    loop {
        let (token, after) = input.split_first()?;
        input = after;
        let literals = length(usize::from(token >> 4), &mut input)?;
        out.extend_from_slice(input.get(..literals)?);
        input = &input[literals..];
        if input.is_empty() {
            return Some(());
        }
        let (offset, after) = input.split_first_chunk()?;
        input = after;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let mut wanted = length(usize::from(token & 15), &mut input)? + 4;
        if offset == 0 || offset > out.len() - begin {
            return None;
        }
        // A match may overlap what it produces: then its beginning is repeated.
        let source = out.len() - offset;
        while wanted > 0 {
            let chunk = wanted.min(out.len() - source);
            out.extend_from_within(source..source + chunk);
            wanted -= chunk;
        }
    }
}

/// A length's nibble, continued by bytes as long as they are full.
fn length(nibble: usize, input: &mut &[u8]) -> Option<usize> {
    let mut length = nibble;
    if nibble == 15 {
        loop {
            let (byte, after) = input.split_first()?;
            *input = after;
            length += usize::from(*byte);
            if *byte != 255 {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "\x7fELF", then a match of 12 bytes at distance 1, then "end": 19 bytes.
    const BLOCK: [u8; 11] = [0x48, 0x7f, b'E', b'L', b'F', 1, 0, 0x30, b'e', b'n', b'd'];

    fn image(unpacked_size: u32) -> Vec<u8> {
        let mut image = b"boot sector".to_vec();
        image.extend(MAGIC);
        image.extend(u32::try_from(BLOCK.len()).unwrap().to_le_bytes());
        image.extend(BLOCK);
        image.extend(unpacked_size.to_le_bytes());
        image.extend(b"more code");
        image
    }

    #[test]
    fn the_kernel_is_found_and_unpacked() {
        assert_eq!(uncompressed(&image(19)).unwrap(), b"\x7fELFFFFFFFFFFFFFend");
    }

    #[test]
    fn what_does_not_add_up_is_no_kernel() {
        assert_eq!(uncompressed(&image(18)), None);
        assert_eq!(uncompressed(b"no kernel at all"), None);
    }
}
