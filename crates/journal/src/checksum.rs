//! CRC32C, in hardware where there is an operating system to ask what the processor can do.

/// Continues the CRC32C of what came before with `bytes`; begin with 0.
#[cfg(feature = "std")]
#[must_use]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// Continues the CRC32C of what came before with `bytes`; begin with 0.
#[cfg(not(feature = "std"))]
#[must_use]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    table::append(crc, bytes)
}

#[cfg(any(test, not(feature = "std")))]
mod table {
    use crc::{CRC_32_ISCSI, Crc, Table};

    static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

    pub(crate) fn append(crc: u32, bytes: &[u8]) -> u32 {
        // The state inside is what a finished checksum was before its bits were turned over, in the other direction.
        let mut digest = CRC.digest_with_initial((!crc).reverse_bits());
        digest.update(bytes);
        digest.finalize()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_and_the_hardware_agree_in_one_piece_and_in_several() {
        assert_eq!(super::append(0, b"123456789"), 0xE306_9283, "the check value of CRC-32/ISCSI");
        let bytes: alloc::vec::Vec<u8> = (0..=255).cycle().take(5000).collect();
        for cut in [0, 1, 7, 512, 4999] {
            let (head, tail) = bytes.split_at(cut);
            let whole = super::append(0, &bytes);
            assert_eq!(super::append(super::append(0, head), tail), whole);
            assert_eq!(super::table::append(super::table::append(0, head), tail), whole);
        }
    }
}
