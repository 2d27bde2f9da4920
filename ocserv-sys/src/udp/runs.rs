//! Runs: datagrams that follow each other to one destination go to the kernel as one message, which
//! it cuts apart again (`UDP_SEGMENT`, udp(7)). It walks through the stack once for all of them.

use super::Destination;

/// Most datagrams in a message: `UDP_MAX_SEGMENTS` of kernels before 6.9, later ones take 128.
pub(super) const MAX_SEGMENTS: usize = 64;
/// Most bytes in a message. The kernel's limit is an IP packet of 65,535 with its headers.
pub(super) const MAX_BYTES: usize = 65_000;

/// How many of these datagrams, lengths and destinations, go as one message: all but the last have
/// the same length, the last may be shorter. 0 only if there are none.
pub(super) fn run_len<'a>(datagrams: impl IntoIterator<Item = (usize, &'a Destination)>) -> usize {
    let mut datagrams = datagrams.into_iter().take(MAX_SEGMENTS);
    let Some((segment, to)) = datagrams.next() else {
        return 0;
    };
    let (mut count, mut total) = (1, segment);
    for (len, other) in datagrams {
        total += len;
        // Of nothing there would be no datagram at the other end.
        if len == 0 || len > segment || total > MAX_BYTES || other != to {
            break;
        }
        count += 1;
        if len < segment {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::udp::Marking;

    fn destination(number: u16) -> Destination {
        Destination {
            peer: SocketAddr::from(([192, 0, 2, 1], number / 4)),
            source: (number & 1 != 0).then(|| [192, 0, 2, 2].into()),
            marking: (number & 2 != 0).then_some(Marking::Tos(8)),
        }
    }

    /// Whether the kernel, told to cut at the first one's length, would make these datagrams again.
    fn is_message(datagrams: &[(usize, u16)]) -> bool {
        let (segment, to) = datagrams[0];
        let total: usize = datagrams.iter().map(|(len, _)| len).sum();
        let mut cut: Vec<usize> = vec![segment; total.checked_div(segment).unwrap_or(0)];
        cut.extend(total.checked_rem(segment).filter(|rest| *rest > 0));
        let alone = datagrams.len() == 1;
        alone
            || (datagrams.len() <= 64
                && total <= 65_000
                && datagrams.iter().all(|(_, other)| *other == to)
                && datagrams.iter().map(|(len, _)| *len).eq(cut))
    }

    fn runs(datagrams: &[(usize, u16)]) -> Vec<usize> {
        let destinations: Vec<_> = datagrams.iter().map(|(_, to)| destination(*to)).collect();
        let mut lens = Vec::new();
        let mut first = 0;
        while first < datagrams.len() {
            let rest = datagrams[first..].iter().zip(&destinations[first..]);
            let len = run_len(rest.map(|((len, _), to)| (*len, to)));
            assert!(len > 0);
            lens.push(len);
            first += len;
        }
        assert_eq!(first, datagrams.len());
        lens
    }

    proptest! {
        #[test]
        fn a_run_is_the_longest_that_the_kernel_cuts_apart_again(
            datagrams in prop::collection::vec(
                (
                    prop_oneof![Just(0usize), Just(100), Just(100), Just(1400), 0..40_000usize],
                    prop_oneof![8 => Just(4u16), 1 => 4..8u16],
                    1..90usize,
                ),
                0..12,
            )
        ) {
            let repeated = datagrams.iter().map(|(len, to, times)| vec![(*len, *to); *times]);
            let datagrams = repeated.collect::<Vec<_>>().concat();
            let mut rest = datagrams.as_slice();
            for len in runs(&datagrams) {
                let longest = (1..=rest.len().min(70)).take_while(|len| is_message(&rest[..*len])).last();
                prop_assert_eq!(Some(len), longest);
                rest = &rest[len..];
            }
        }
    }

    #[test]
    fn runs_end_where_destination_source_or_marking_change() {
        let equal = |to: u16| (100, to);
        assert_eq!(runs(&[equal(4), equal(4), equal(8)]), [2, 1]);
        assert_eq!(runs(&[equal(4), equal(5), equal(7), equal(7)]), [1, 1, 2]);
        assert_eq!(runs(&[]), [0usize; 0]);
    }

    #[test]
    fn runs_end_behind_a_shorter_one_and_before_a_longer_one() {
        let to_one = |lens: &[usize]| runs(&lens.iter().map(|len| (*len, 4)).collect::<Vec<_>>());
        assert_eq!(to_one(&[9, 9, 5, 5, 9]), [3, 1, 1]);
        assert_eq!(to_one(&[9, 9, 0, 0]), [2, 1, 1]);
        assert_eq!(to_one(&[1400; 100]), [46, 46, 8]);
        assert_eq!(to_one(&[10; 130]), [64, 64, 2]);
        assert_eq!(to_one(&[65_507, 1]), [1, 1]);
    }
}
