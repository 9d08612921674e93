use super::*;
use proptest::prelude::*;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[test]
fn options_that_servers_push_are_read() {
    let v4 = |text: &str| text.parse::<Ipv4Addr>().unwrap();
    for (text, item) in [
        ("ifconfig 10.8.0.6 10.8.0.5", Item::Ifconfig(v4("10.8.0.6"), v4("10.8.0.5"))),
        (
            "ifconfig-ipv6 fd00::1000/64 fd00::1",
            Item::IfconfigV6(prefix("fd00::1000/64"), Some("fd00::1".parse().unwrap())),
        ),
        ("topology subnet", Item::Topology(Topology::Subnet)),
        ("route 10.8.0.1", Item::Route(prefix("10.8.0.1/32"), false)),
        ("route 10.20.1.1 255.255.0.0 10.8.0.1 50", Item::Route(prefix("10.20.0.0/16"), false)),
        ("route 192.0.2.7 255.255.255.255 net_gateway", Item::Route(prefix("192.0.2.7/32"), true)),
        ("route 10.0.0.0 default vpn_gateway", Item::Route(prefix("10.0.0.0/32"), false)),
        ("route 10.1.0.0/16", Item::Route(prefix("10.1.0.0/16"), false)),
        ("route db.example.com 255.255.255.255", Item::RouteName("db.example.com".into())),
        ("route remote_host 255.255.255.255 net_gateway", Item::RouteName("remote_host".into())),
        ("route-ipv6 2001:db8::1/32 net_gateway", Item::Route(prefix("2001:db8::/32"), true)),
        ("route-gateway dhcp", Item::RouteGateway(None)),
        ("redirect-gateway autolocal", Item::Redirect(Redirect::default())),
        (
            "redirect-gateway def1 ipv6 !ipv4",
            Item::Redirect(Redirect { private: false, v6: true, not_v4: true }),
        ),
        ("dhcp-option DNS6 fd00::53", Item::DhcpDns("fd00::53".parse().unwrap())),
        ("dhcp-option dns 10.0.0.53", Item::DhcpDns("10.0.0.53".parse().unwrap())),
        ("dhcp-option ADAPTER_DOMAIN_SUFFIX Corp.Example.", Item::DhcpDomain("corp.example".into())),
        ("dhcp-option WINS 10.0.0.1", Item::Quiet("dhcp-option OTHER")),
        (
            "dns search-domains a.example b.example",
            Item::SearchDomains(vec!["a.example".into(), "b.example".into()]),
        ),
        (
            "dns server 1 address 10.0.0.53 [fd00::53]:5353 fd00::54 [fd00::55]",
            Item::DnsServer(
                1,
                DnsItem::Address(vec![
                    ("10.0.0.53".parse().unwrap(), 53),
                    ("fd00::53".parse().unwrap(), 5353),
                    ("fd00::54".parse().unwrap(), 53),
                    ("fd00::55".parse().unwrap(), 53),
                ]),
            ),
        ),
        (
            "dns server 0 resolve-domains .corp.example",
            Item::DnsServer(0, DnsItem::ResolveDomains(vec!["corp.example".into()])),
        ),
        ("inactive 300", Item::Inactive(300, 0)),
        ("inactive 300 100000", Item::Inactive(300, 100_000)),
        ("peer-id 0", Item::PeerId(Some(0))),
        ("auth-token-user dXNlcg==", Item::AuthTokenUser("dXNlcg==".to_owned().into())),
        ("comp-lzo", Item::Compression(Compression::Lzo)),
        ("comp-lzo no", Item::Compression(Compression::Lzo)),
        ("compress", Item::Compression(Compression::Stub)),
        ("compress lz4-v2", Item::Compression(Compression::StubV2)),
        ("explicit-exit-notify", Item::ExitNotify(1)),
        ("push-continuation 2", Item::Continuation(2)),
        ("route-delay 5 30", Item::Quiet("route-delay")),
        ("setenv-safe a b", Item::Quiet("setenv-safe")),
    ] {
        assert_eq!(Item::parse(text), Ok(item), "{text}");
    }
}

#[test]
fn wrong_arguments_unknown_options_and_those_of_a_profile_are_told_apart() {
    for text in [
        "",
        "\"",
        "ifconfig 10.0.0.1",
        "ifconfig a b",
        "ifconfig-ipv6 10.0.0.1/8",
        "topology mesh",
        "route",
        "route 10.0.0.0 255.0.255.0",
        "route 10.0.0.0 x",
        "route a/b",
        "route-ipv6 10.0.0.0/8",
        "route-ipv6 fd00::/129",
        "dhcp-option",
        "dhcp-option DNS",
        "dhcp-option DNS x",
        "dhcp-option DOMAIN a..b",
        "dns",
        "dns server",
        "dns server 200 address 10.0.0.1",
        "dns server -1 address 10.0.0.1",
        "dns server 1 address",
        "dns server 1 transport pigeon",
        "ping",
        "ping x",
        "ping -1",
        "keepalive 10",
        "peer-id",
        "peer-id x",
        "tun-mtu x",
        "compress zstd",
        "cipher",
    ] {
        assert_eq!(Item::parse(text), Err(Problem::Malformed), "{text}");
    }
    for text in ["made-up 1", "ROUTE 10.0.0.0", "<ca>"] {
        assert_eq!(Item::parse(text), Err(Problem::Unknown), "{text}");
    }
    for text in ["up /bin/sh", "remote 192.0.2.1", "script-security 3", "plugin x", "ca [inline]"] {
        assert_eq!(Item::parse(text), Err(Problem::NotPushable), "{text}");
    }
}

#[test]
fn lists_of_names_are_sorted_and_secrets_are_not_shown() {
    assert!(QUIET.is_sorted() && NOT_PUSHABLE.is_sorted());
    let item = Item::parse("auth-token SECRET").unwrap();
    assert!(!format!("{item:?}").contains("SECRET"));
}

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from_bits)
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        v4().prop_map(IpAddr::V4),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)))
    ]
}

fn network() -> impl Strategy<Value = Prefix> {
    (ip(), 0u8..=128).prop_map(|(ip, length)| {
        Prefix::new(ip, if ip.is_ipv4() { length % 33 } else { length }).unwrap().network()
    })
}

fn domains() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[a-z0-9]{1,8}(\\.[a-z0-9-]{1,8}){0,2}", 1..4)
}

fn text() -> impl Strategy<Value = String> {
    "[ -+\\--~]{0,12}"
}

fn dns_item() -> impl Strategy<Value = DnsItem> {
    prop_oneof![
        proptest::collection::vec((ip(), any::<u16>()), 1..4).prop_map(DnsItem::Address),
        domains().prop_map(DnsItem::ResolveDomains),
        prop::sample::select(vec!["yes", "optional", "no"]).prop_map(|value| DnsItem::Dnssec(value.into())),
        prop::sample::select(vec!["plain", "DoH", "DoT"]).prop_map(|value| DnsItem::Transport(value.into())),
        text().prop_map(DnsItem::Sni),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    let addresses = prop_oneof![
        (v4(), v4()).prop_map(|(local, remote)| Item::Ifconfig(local, remote)),
        (any::<u128>(), 0u8..=128, proptest::option::of(any::<u128>())).prop_map(
            |(local, length, remote)| {
                let local = Prefix::new(IpAddr::V6(Ipv6Addr::from_bits(local)), length).unwrap();
                Item::IfconfigV6(local, remote.map(Ipv6Addr::from_bits))
            }
        ),
        prop::sample::select(vec![Topology::Net30, Topology::P2p, Topology::Subnet]).prop_map(Item::Topology),
        (network(), any::<bool>()).prop_map(|(prefix, outside)| Item::Route(prefix, outside)),
        "[g-z]{1,5}\\.[a-z]{2}".prop_map(Item::RouteName),
        proptest::option::of(ip()).prop_map(Item::RouteGateway),
        any::<[bool; 3]>().prop_map(|[private, v6, not_v4]| Item::Redirect(Redirect { private, v6, not_v4 })),
        Just(Item::BlockIpv6),
        ip().prop_map(Item::DhcpDns),
        domains().prop_map(|mut domains| Item::DhcpDomain(domains.remove(0))),
        domains().prop_map(Item::SearchDomains),
        (0i8..=127, dns_item()).prop_map(|(index, item)| Item::DnsServer(index, item)),
    ];
    let others = prop_oneof![
        any::<u32>().prop_map(Item::Ping),
        any::<(u32, u32)>().prop_map(|(ping, restart)| Item::Keepalive(ping, restart)),
        any::<(u32, u64)>().prop_map(|(seconds, bytes)| Item::Inactive(seconds, bytes)),
        proptest::option::of(any::<u32>()).prop_map(Item::PeerId),
        text().prop_map(Item::Cipher),
        proptest::collection::vec(text(), 0..4).prop_map(Item::ProtocolFlags),
        text().prop_map(Item::KeyDerivation),
        text().prop_map(|text| Item::AuthToken(text.into())),
        text().prop_map(|text| Item::AuthTokenUser(text.into())),
        any::<u32>().prop_map(Item::TunMtu),
        prop::sample::select(vec![Compression::Lzo, Compression::Stub, Compression::StubV2])
            .prop_map(Item::Compression),
        prop::sample::select(QUIET.to_vec()).prop_map(Item::Quiet),
    ];
    prop_oneof![addresses, others]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(item in item()) {
        let text = item.to_string();
        prop_assert_eq!(Item::parse(&text), Ok(item), "{}", text);
    }

    #[test]
    fn no_text_makes_the_reader_panic(
        name in prop::sample::select(vec!["route", "dns server 1", "dhcp-option", "ifconfig-ipv6", "compress", ""]),
        rest in "\\PC{0,40}",
    ) {
        let _ = Item::parse(&format!("{name} {rest}"));
    }
}
