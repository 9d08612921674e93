//! `adit dns`

use std::net::IpAddr;

use adit_path::{Answer, Query, RecordType};
use adit_verify::Context as Words;
use serde_json::json;

use crate::access::Access;
use crate::cli::{Context, DnsArgs, RecordKind};
use crate::commands::until_interrupted;
use crate::session::runtime;
use crate::{Exit, Failure};

/// Asks the private resolver, and says who answered by which rule.
pub(crate) fn run(context: &mut Context, args: &DnsArgs) -> Result<Exit, Failure> {
    runtime()?.block_on(until_interrupted(async {
        let access = Access::open(context, &args.connect).await?;
        let answer = access.network().resolve(query(args)).await;
        access.close();
        let answer = answer.map_err(|failure| Words::default().with("name", &args.name).resolve(&failure))?;
        if context.global.json {
            context.ui.json(&shown(&answer))?;
        } else {
            print(context, &answer)?;
        }
        Ok(Exit::Ok)
    }))
}

fn query(args: &DnsArgs) -> Query {
    let record = args.record.map(|record| match record {
        RecordKind::A => RecordType::A,
        RecordKind::Aaaa => RecordType::AAAA,
        RecordKind::Ptr => RecordType::PTR,
    });
    match args.name.parse::<IpAddr>() {
        Ok(address) => Query { record: Some(RecordType::PTR), ..Query::addresses(reverse_name(address)) },
        Err(_) => Query { record, ..Query::addresses(&args.name) },
    }
}

/// The name under which an address has its names (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse_name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let digits = format!("{:032x}", address.to_bits());
            let labels: Vec<_> = digits.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", labels.join("."))
        }
    }
}

fn shown(answer: &Answer) -> serde_json::Value {
    json!({
        "schema": "adit.dns/1",
        "name": answer.name,
        "addresses": answer.addresses,
        "names": answer.names,
        "ttl": answer.ttl.as_secs(),
        "server": answer.server,
        "rule": answer.rule,
    })
}

fn print(context: &Context, answer: &Answer) -> Result<(), Failure> {
    let server = answer.server.map_or_else(|| "configuration".to_owned(), |server| server.to_string());
    let ttl = answer.ttl.as_secs();
    context.ui.note(&format!("{} by {server} ({}), TTL {ttl} s", answer.name, answer.rule));
    let addresses = answer.addresses.iter().map(IpAddr::to_string);
    let lines: Vec<String> = addresses.chain(answer.names.iter().cloned()).collect();
    if lines.is_empty() {
        context.ui.note("the name exists, without records of this type");
        return Ok(());
    }
    context.ui.result(&lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names_are_those_of_the_standards() {
        assert_eq!(reverse_name([10, 8, 0, 5].into()), "5.0.8.10.in-addr.arpa");
        let name = reverse_name("2001:db8::567:89ab".parse().unwrap());
        assert_eq!(name, "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");
    }
}
