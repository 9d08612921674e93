//! Address prefixes and the longest-prefix table over them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and a prefix length. The host bits are kept, so that an interface address can be written too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Makes a prefix; `None` if `length` exceeds the family's width.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        (length <= width(address)).then_some(Self { address, length })
    }

    /// The prefix of a single host.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: width(address) }
    }

    /// The address as written, host bits included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The same prefix with the host bits cleared.
    pub fn network(&self) -> Self {
        let bits = mask_high(left_aligned(self.address), self.length);
        let address = match self.address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        Self { address, length: self.length }
    }

    /// Whether `address` lies in the prefix. Families never match each other.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && mask_high(left_aligned(self.address) ^ left_aligned(address), self.length) == 0
    }

    /// Whether the two prefixes share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Whether every address of `other` lies in this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Hands out prefixes that together are this one without the longer ones among `holes`.
    pub fn without(&self, holes: &[Self], take: &mut impl FnMut(Self)) {
        let inside = |hole: &Self| hole.length > self.length && self.covers(hole);
        let Some(halves) = self.halves().filter(|_| holes.iter().any(inside)) else { return take(*self) };
        let holes: Vec<Self> = holes.iter().filter(|hole| inside(hole)).copied().collect();
        for half in halves {
            if !holes.iter().any(|hole| hole.covers(&half)) {
                half.without(&holes, take);
            }
        }
    }

    /// The two prefixes that are one bit longer; `None` for a host.
    fn halves(&self) -> Option<[Self; 2]> {
        let length = self.length + 1;
        let low = Self { length, ..self.network() };
        let bit = 1u128 << (128 - u32::from(length.min(128)));
        let address = match low.address {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() | (bit >> 96) as u32)),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() | bit)),
        };
        (length <= width(self.address)).then_some([low, Self { address, length }])
    }

    /// Whether this is `0.0.0.0/0` or `::/0`.
    pub fn is_default(&self) -> bool {
        self.length == 0
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn mask_high(bits: u128, length: u8) -> u128 {
    match length {
        0 => 0,
        length => bits & (u128::MAX << (128 - u32::from(length.min(128)))),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePrefixError {
    /// The part before the slash is no address.
    #[error("`{0}` is not an IP address")]
    Address(String),
    /// The part after the slash is no length of this family.
    #[error("`{0}` is not a prefix length of this address family")]
    Length(String),
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    /// Reads `ADDRESS/LENGTH` or a bare `ADDRESS`, which is a single host.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let parsed: IpAddr = address.parse().map_err(|_| ParsePrefixError::Address(address.to_owned()))?;
        let Some(length) = length else { return Ok(Self::host(parsed)) };
        let bits = length.parse().map_err(|_| ParsePrefixError::Length(length.to_owned()))?;
        Self::new(parsed, bits).ok_or_else(|| ParsePrefixError::Length(length.to_owned()))
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A map from prefixes to values with longest-prefix lookup (RFC 4632 §5.1).
///
/// Entries are kept per prefix length, longest first; a lookup costs one binary search per length in use.
#[derive(Clone, Debug)]
pub struct PrefixTable<T> {
    v4: Vec<Level<T>>,
    v6: Vec<Level<T>>,
}

#[derive(Clone, Debug)]
struct Level<T> {
    length: u8,
    entries: Vec<(u128, T)>,
}

impl<T> Default for PrefixTable<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T> PrefixTable<T> {
    /// Adds `prefix`; returns the value that it replaces.
    pub fn insert(&mut self, prefix: Prefix, value: T) -> Option<T> {
        let key = mask_high(left_aligned(prefix.address), prefix.length);
        let levels = self.family_mut(prefix.address);
        let at = match levels.binary_search_by(|level| prefix.length.cmp(&level.length)) {
            Ok(at) => at,
            Err(at) => {
                levels.insert(at, Level { length: prefix.length, entries: Vec::new() });
                at
            }
        };
        let entries = &mut levels[at].entries;
        match entries.binary_search_by_key(&key, |entry| entry.0) {
            Ok(found) => Some(std::mem::replace(&mut entries[found].1, value)),
            Err(free) => {
                entries.insert(free, (key, value));
                None
            }
        }
    }

    /// The value of the longest prefix that contains `address`.
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        let bits = left_aligned(address);
        self.family(address).iter().find_map(|level| {
            let key = mask_high(bits, level.length);
            let found = level.entries.binary_search_by_key(&key, |entry| entry.0).ok()?;
            Some(&level.entries[found].1)
        })
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn family(&self, address: IpAddr) -> &[Level<T>] {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    fn family_mut(&mut self, address: IpAddr) -> &mut Vec<Level<T>> {
        if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut table = PrefixTable::default();
        for (text, value) in
            [("0.0.0.0/0", 0), ("10.0.0.0/8", 8), ("10.1.2.0/24", 24), ("10.1.2.3", 32), ("::/0", 60)]
        {
            table.insert(text.parse().unwrap(), value);
        }
        for (address, value) in
            [("192.0.2.1", 0), ("10.9.9.9", 8), ("10.1.2.9", 24), ("10.1.2.3", 32), ("fd00::1", 60)]
        {
            assert_eq!(table.lookup(address.parse().unwrap()), Some(&value), "{address}");
        }
    }

    #[test]
    fn host_bits_are_cleared_only_on_request() {
        let prefix: Prefix = "10.1.2.3/24".parse().unwrap();
        assert_eq!(prefix.to_string(), "10.1.2.3/24");
        assert_eq!(prefix.network().to_string(), "10.1.2.0/24");
        assert!(
            prefix.contains("10.1.2.200".parse().unwrap()) && !prefix.contains("10.1.3.1".parse().unwrap())
        );
    }

    #[test]
    fn lengths_beyond_the_family_are_refused() {
        assert_eq!("10.0.0.0/33".parse::<Prefix>(), Err(ParsePrefixError::Length("33".to_owned())));
        assert_eq!("x/8".parse::<Prefix>(), Err(ParsePrefixError::Address("x".to_owned())));
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        // Few distinct bits, so that prefixes nest and addresses hit them.
        prop_oneof![
            prop::sample::select(vec![0u32, 0x0a00_0000, 0x0a01_0000, 0x0a01_0203, 0xffff_ffff])
                .prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            (0u128..4, 0u32..2)
                .prop_map(|(high, low)| IpAddr::V6(Ipv6Addr::from_bits(high << 126 | u128::from(low)))),
        ]
    }

    proptest! {
        #[test]
        fn the_table_answers_like_a_scan_over_all_prefixes(
            entries in proptest::collection::vec((address(), 0u8..=128), 0..24), asked in address(),
        ) {
            let prefixes: Vec<Prefix> = entries
                .into_iter()
                .map(|(address, length)| Prefix { address, length: length.min(width(address)) })
                .collect();
            let mut table = PrefixTable::default();
            for (value, prefix) in prefixes.iter().enumerate() {
                table.insert(*prefix, value);
            }
            // The longest wins; of equal prefixes the one inserted last.
            let naive = (0..prefixes.len())
                .filter(|&value| prefixes[value].contains(asked))
                .max_by_key(|&value| (prefixes[value].length, value));
            prop_assert_eq!(table.lookup(asked).copied(), naive);
        }

        #[test]
        fn a_prefix_without_holes_holds_what_is_in_no_hole(
            route in (address(), 0u8..=128), holes in proptest::collection::vec((address(), 0u8..=128), 0..6),
            asked in address(),
        ) {
            let make = |(address, length): (IpAddr, u8)| Prefix { address, length: length % (width(address) + 1) };
            let route = make(route).network();
            let holes: Vec<Prefix> = holes.into_iter().map(|hole| make(hole).network()).collect();
            let mut parts = Vec::new();
            route.without(&holes, &mut |part| parts.push(part));
            let in_hole = |hole: &Prefix| hole.length() > route.length() && hole.contains(asked);
            let expected = route.contains(asked) && !holes.iter().any(in_hole);
            prop_assert_eq!(parts.iter().filter(|part| part.contains(asked)).count(), usize::from(expected));
        }

        #[test]
        fn what_is_written_reads_back(address in address(), length in 0u8..=128) {
            let prefix = Prefix { address, length: length.min(width(address)) };
            prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        }
    }
}
