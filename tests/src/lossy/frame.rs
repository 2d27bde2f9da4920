//! Ethernet frames, as far as a link looks into them.

const ETHERNET: usize = 14;
const IPV4: [u8; 2] = [8, 0];
const IPV6: [u8; 2] = [0x86, 0xdd];
const IPV4_HEADER: usize = 20;
/// Beside the offset of a fragment.
const DONT_FRAGMENT: u16 = 0x4000;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Whether it carries TCP or UDP: the rest (neighbours, errors, echoes) is no traffic of a VPN.
pub fn is_traffic(frame: &[u8]) -> bool {
    let protocol = match frame.get(12..ETHERNET) {
        Some(kind) if kind == IPV4 => frame.get(ETHERNET + 9),
        Some(kind) if kind == IPV6 => frame.get(ETHERNET + 6),
        _ => None,
    };
    matches!(protocol, Some(&(TCP | UDP)))
}

/// Bytes of its IP packet.
pub fn packet_len(frame: &[u8]) -> usize {
    frame.len().saturating_sub(ETHERNET)
}

/// What a router makes of an IPv4 packet without DF that does not fit. Empty: it is another packet.
pub fn fragments(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let Some((head, payload)) = frame.split_at_checked(ETHERNET + IPV4_HEADER) else {
        return Vec::new();
    };
    let place = u16::from_be_bytes([head[ETHERNET + 6], head[ETHERNET + 7]]);
    if head[12..ETHERNET] != IPV4 || head[ETHERNET] != 0x45 || place & DONT_FRAGMENT != 0 {
        return Vec::new();
    }
    let size = (mtu - IPV4_HEADER) / 8 * 8;
    let count = payload.len().div_ceil(size);
    let fragment = |(index, part): (usize, &[u8])| {
        let mut header = head[ETHERNET..].to_vec();
        header[2..4].copy_from_slice(&((IPV4_HEADER + part.len()) as u16).to_be_bytes());
        let more = if index + 1 < count {
            MORE
        } else {
            place & MORE
        };
        let offset = (place & OFFSET) + (index * size / 8) as u16;
        header[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        [&head[..ETHERNET], &header, part].concat()
    };
    payload.chunks(size).enumerate().map(fragment).collect()
}

/// What a router says of an IPv4 packet with DF that does not fit (RFC 1191), in the name of the
/// packet's destination. `None`: it is another packet.
pub fn fragmentation_needed(frame: &[u8], mtu: usize) -> Option<Vec<u8>> {
    /// Header and the beginning of the transport's (RFC 792).
    const QUOTED: usize = 28;
    let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
    let quoted = packet.get(..QUOTED)?;
    if ethernet[12..] != IPV4 || u16::from(quoted[6]) << 8 & DONT_FRAGMENT == 0 {
        return None;
    }
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(u16::try_from(mtu).ok()?.to_be_bytes());
    message.extend(quoted);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);

    let mut header = vec![0x45, 0];
    header.extend((20 + message.len() as u16).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, ICMP, 0, 0]);
    header.extend(&quoted[16..20]);
    header.extend(&quoted[12..16]);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    Some([&ethernet[6..12], &ethernet[..6], &IPV4, &header, &message].concat())
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.as_chunks::<2>().0;
    let mut sum: u32 = words
        .iter()
        .map(|w| u32::from(u16::from_be_bytes(*w)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a datagram with DF, TTL 64, no transport checksum.
    fn datagram() -> Vec<u8> {
        let mut frame = vec![1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 8, 0];
        frame.extend([0x45, 0, 0x05, 0xdc, 0, 7, 0x40, 0, 64, UDP, 0, 0]);
        frame.extend([
            192, 0, 2, 1, 198, 51, 100, 2, 0x11, 0x5b, 0x12, 0x34, 5, 0xc8, 0, 0,
        ]);
        frame.resize(ETHERNET + 1500, 0);
        frame
    }

    #[test]
    fn a_router_says_what_fits() {
        let frame = datagram();
        assert!(is_traffic(&frame));
        assert_eq!(packet_len(&frame), 1500);
        let answer = fragmentation_needed(&frame, 1300).unwrap();
        assert!(!is_traffic(&answer));
        assert_eq!(answer[..14], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 8, 0]);
        assert_eq!(answer[26..34], [198, 51, 100, 2, 192, 0, 2, 1]);
        assert_eq!(answer[34..36], [3, 4]);
        assert_eq!(answer[40..42], [5, 0x14]);
        assert_eq!(answer[42..], frame[14..42]);
        // A sum over what has its checksum is nothing.
        assert_eq!(checksum(&answer[14..34]), [0, 0]);
        assert_eq!(checksum(&answer[34..]), [0, 0]);
    }

    #[test]
    fn packets_that_may_be_fragmented_get_no_answer() {
        let mut frame = datagram();
        frame[ETHERNET + 6] = 0;
        assert_eq!(fragmentation_needed(&frame, 1300), None);
        assert_eq!(fragmentation_needed(&frame[..20], 1300), None);
    }

    #[test]
    fn fragments_are_fragmented_again() {
        assert!(fragments(&datagram(), 1300).is_empty());
        let mut frame = datagram();
        frame[ETHERNET + 6] = 0;
        let once = fragments(&frame, 1300);
        let twice = fragments(&once[0], 700);
        let heads = [&once[0], &once[1], &twice[0], &twice[1]].map(|fragment| {
            assert_eq!(checksum(&fragment[14..34]), [0, 0]);
            assert_eq!(
                packet_len(fragment),
                usize::from(fragment[16]) << 8 | usize::from(fragment[17])
            );
            hex(&fragment[20..22])
        });
        assert_eq!(heads, ["2000", "00a0", "2000", "2055"]);
        let payload: usize = [&twice[0], &twice[1], &once[1]]
            .map(|f| f.len() - 34)
            .iter()
            .sum();
        assert_eq!(payload, 1480);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
