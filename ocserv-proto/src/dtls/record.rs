//! DTLS record header (RFC 6347 4.1): type, version, epoch, sequence number, length.

/// Bytes of a record header.
pub const RECORD_HEADER: usize = 13;
/// DTLS 1.0, which a first ClientHello carries in its record header.
pub const VERSION_1_0: u16 = 0xfeff;
/// DTLS 1.2.
pub const VERSION_1_2: u16 = 0xfefd;

/// Content types of records (RFC 5246 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ContentType {
    /// `change_cipher_spec`.
    ChangeCipherSpec = 20,
    /// `alert`.
    Alert = 21,
    /// `handshake`.
    Handshake = 22,
    /// `application_data`.
    ApplicationData = 23,
}

impl ContentType {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::ApplicationData),
            _ => None,
        }
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record holds.
    pub content_type: ContentType,
    /// Protocol version.
    pub version: u16,
    /// Counts the keys in use; 0 is unprotected.
    pub epoch: u16,
    /// 48 bits.
    pub sequence: u64,
    /// Bytes that follow the header.
    pub length: u16,
}

impl RecordHeader {
    /// Reads the header at the beginning of a datagram or of what is left of one. `None`: not a
    /// DTLS 1.0 or 1.2 record, or cut short.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; RECORD_HEADER] = bytes.first_chunk()?;
        let [kind, v0, v1, e0, e1, s0, s1, s2, s3, s4, s5, l0, l1] = *header;
        let parsed = Self {
            content_type: ContentType::from_byte(kind)?,
            version: u16::from_be_bytes([v0, v1]),
            epoch: u16::from_be_bytes([e0, e1]),
            sequence: u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]),
            length: u16::from_be_bytes([l0, l1]),
        };
        let known_version = matches!(parsed.version, VERSION_1_0 | VERSION_1_2);
        (known_version && parsed.record_len() <= bytes.len()).then_some(parsed)
    }

    /// The header's bytes. A sequence number beyond 48 bits loses its upper ones.
    pub fn to_bytes(&self) -> [u8; RECORD_HEADER] {
        let [v0, v1] = self.version.to_be_bytes();
        let [e0, e1] = self.epoch.to_be_bytes();
        let [_, _, s0, s1, s2, s3, s4, s5] = self.sequence.to_be_bytes();
        let [l0, l1] = self.length.to_be_bytes();
        [
            self.content_type as u8,
            v0,
            v1,
            e0,
            e1,
            s0,
            s1,
            s2,
            s3,
            s4,
            s5,
            l0,
            l1,
        ]
    }

    /// Bytes of the whole record.
    pub fn record_len(&self) -> usize {
        RECORD_HEADER + usize::from(self.length)
    }
}

/// Cuts the first record off a datagram: header, the record's bytes with its header, the rest.
/// `None`: nothing more that is a record.
pub fn split_record(datagram: &mut [u8]) -> Option<(RecordHeader, &mut [u8], &mut [u8])> {
    let header = RecordHeader::parse(datagram)?;
    let (record, rest) = datagram.split_at_mut_checked(header.record_len())?;
    Some((header, record, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIRE: [u8; 15] = [
        23, 0xfe, 0xfd, 0, 1, 0, 0, 0x12, 0x34, 0x56, 0x78, 0, 2, 0xaa, 0xbb,
    ];

    #[test]
    fn reads_and_writes_the_header() {
        let header = RecordHeader::parse(&WIRE).unwrap();
        let expected = RecordHeader {
            content_type: ContentType::ApplicationData,
            version: VERSION_1_2,
            epoch: 1,
            sequence: 0x1234_5678,
            length: 2,
        };
        assert_eq!(header, expected);
        assert_eq!(header.to_bytes(), WIRE[..13]);
        assert_eq!(header.record_len(), 15);
    }

    #[test]
    fn refuses_what_is_not_a_record() {
        assert_eq!(RecordHeader::parse(&WIRE[..14]), None, "cut short");
        assert_eq!(RecordHeader::parse(&WIRE[..12]), None);
        let mut other = WIRE;
        other[0] = 24;
        assert_eq!(RecordHeader::parse(&other), None, "content type");
        let mut other = WIRE;
        other[2] = 0xfc;
        assert_eq!(RecordHeader::parse(&other), None, "version");
    }

    #[test]
    fn a_datagram_may_hold_several_records() {
        let mut datagram = [WIRE, WIRE].concat();
        datagram.push(0);
        let (_, first, rest) = split_record(&mut datagram).unwrap();
        assert_eq!(first, WIRE);
        let (_, second, rest) = split_record(rest).unwrap();
        assert_eq!(second, WIRE);
        assert_eq!(split_record(rest), None);
    }

    proptest! {
        #[test]
        fn a_header_that_parses_is_written_back(bytes in prop::collection::vec(any::<u8>(), 0..64),
                                                 kind in 19u8..25, length in 0u8..40) {
            let mut bytes = bytes;
            if let Some(start) = bytes.first_chunk_mut::<RECORD_HEADER>() {
                start[0] = kind;
                start[1..3].copy_from_slice(&VERSION_1_2.to_be_bytes());
                start[11..].copy_from_slice(&[0, length]);
            }
            if let Some(header) = RecordHeader::parse(&bytes) {
                prop_assert_eq!(&header.to_bytes()[..], &bytes[..RECORD_HEADER]);
                prop_assert!(header.record_len() <= bytes.len());
            }
        }
    }
}
