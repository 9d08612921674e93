//! Which names to try for a question, and whom to ask for each.

use std::net::IpAddr;

use adit_tunnel::{NetConfig, is_under};

/// A name to try, in lower case and without trailing dot, with the search domain that completed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) search: Option<String>,
}

/// The names to try, in order, as resolv.conf(5) has it with `ndots:1`: a name with a dot is tried as it is
/// first, a single label last.
pub(super) fn candidates(config: &NetConfig, name: &str) -> Vec<Candidate> {
    let absolute = name.ends_with('.');
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let plain = Candidate { name: name.clone(), search: None };
    if absolute {
        return vec![plain];
    }
    let mut list: Vec<_> = config
        .dns
        .search
        .iter()
        .map(|domain| Candidate { name: format!("{name}.{domain}"), search: Some(domain.clone()) })
        .collect();
    if name.contains('.') {
        list.insert(0, plain);
    } else {
        list.push(plain);
    }
    list
}

/// The servers for a name and the rule that chose them: the longest split suffix, else the default servers.
pub(super) fn servers(config: &NetConfig, candidate: &Candidate) -> (Vec<IpAddr>, String) {
    let split = config
        .dns
        .routes
        .iter()
        .filter(|rule| is_under(&candidate.name, &rule.suffix))
        .max_by_key(|rule| rule.suffix.len());
    match (split, &candidate.search) {
        (Some(rule), _) => (rule.servers.clone(), format!("split:{}", rule.suffix)),
        (None, Some(search)) => (config.dns.servers.clone(), format!("search:{search}")),
        (None, None) => (config.dns.servers.clone(), "default".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use adit_tunnel::{DnsConfig, DnsRoute};
    use proptest::prelude::*;

    use super::*;

    fn config(search: &[&str], splits: &[&str]) -> NetConfig {
        let routes = splits.iter().enumerate().map(|(i, suffix)| DnsRoute {
            suffix: (*suffix).to_owned(),
            servers: vec![IpAddr::from([10, 0, 1, i as u8])],
        });
        NetConfig {
            dns: DnsConfig {
                servers: vec![IpAddr::from([10, 0, 0, 1])],
                search: search.iter().map(|&s| s.to_owned()).collect(),
                routes: routes.collect(),
            },
            ..NetConfig::default()
        }
    }

    fn names(config: &NetConfig, name: &str) -> Vec<String> {
        candidates(config, name).into_iter().map(|c| c.name).collect()
    }

    #[test]
    fn search_domains_complete_names_in_the_order_of_resolv_conf() {
        let config = config(&["a.example", "b.example"], &[]);
        assert_eq!(names(&config, "DB"), ["db.a.example", "db.b.example", "db"]);
        assert_eq!(names(&config, "db.x"), ["db.x", "db.x.a.example", "db.x.b.example"]);
        assert_eq!(names(&config, "db.x."), ["db.x"]);
    }

    proptest! {
        #[test]
        fn the_longest_matching_suffix_decides_as_in_a_naive_model(
            labels in prop::collection::vec("[ab]", 1..5),
            rules in prop::collection::btree_set(prop::collection::vec("[ab]", 1..4), 0..6),
        ) {
            let name = labels.join(".");
            let suffixes: Vec<String> = rules.iter().map(|rule| rule.join(".")).collect();
            let borrowed: Vec<&str> = suffixes.iter().map(String::as_str).collect();
            let candidate = Candidate { name, search: None };
            let (_, rule) = servers(&config(&[], &borrowed), &candidate);
            let model = rules.iter().filter(|rule| labels.ends_with(rule)).max_by_key(|rule| rule.len());
            let expected = model.map_or("default".to_owned(), |rule| format!("split:{}", rule.join(".")));
            prop_assert_eq!(rule, expected);
        }
    }
}
