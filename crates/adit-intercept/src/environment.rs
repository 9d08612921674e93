//! `--mode env`: proxy variables for a program that nobody supervises.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;

/// The proxy to which the variables point; it speaks SOCKS5 and HTTP on one port.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyEnvironment {
    /// Where it listens.
    pub proxy: SocketAddr,
    /// User and password, if it asks for them; letters and digits only, so that they need no escapes.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for ProxyEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyEnvironment")
            .field("proxy", &self.proxy)
            .field("credentials", &self.credentials.as_ref().map(|_| "[redacted]"))
            .finish()
    }
}

/// Destinations that need no proxy.
const LOCAL: &str = "localhost,127.0.0.1,::1";

impl ProxyEnvironment {
    /// What a person must know who runs a program this way.
    pub const WARNING: &str = "only programs that honour proxy variables reach the private network (curl, git, pip, \
        npm, cargo, Go's net/http and their like); psql, mysql, redis-cli, ssh, most database drivers, \
        Java, UDP and ping do not, and a program that ignores the variables takes the public path. Use `adit \
        forward` for those, or `ProxyCommand adit nc %h %p` for ssh";

    /// The variables, with their values. `inherited` is the program's environment so far: what it exempts from
    /// proxies stays exempt.
    pub fn variables(&self, inherited: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
        let at = match &self.credentials {
            Some((user, password)) => format!("{user}:{password}@{}", self.proxy),
            None => self.proxy.to_string(),
        };
        let (http, socks) = (format!("http://{at}"), format!("socks5h://{at}"));
        let exempt = [OsStr::new("no_proxy"), OsStr::new("NO_PROXY")]
            .into_iter()
            .find_map(|name| inherited.iter().find(|(key, value)| key == name && !value.is_empty()));
        let mut no_proxy = OsString::from(LOCAL);
        if let Some((_, value)) = exempt {
            no_proxy.push(",");
            no_proxy.push(value);
        }
        let mut variables = Vec::new();
        for (name, value) in [("http_proxy", &http), ("https_proxy", &http), ("all_proxy", &socks)] {
            variables.push((name.into(), value.into()));
            variables.push((name.to_ascii_uppercase().into(), value.into()));
        }
        variables.push(("no_proxy".into(), no_proxy.clone()));
        variables.push(("NO_PROXY".into(), no_proxy));
        variables.push(("NODE_USE_ENV_PROXY".into(), "1".into()));
        variables.push(("RSYNC_PROXY".into(), at.into()));
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_points_to_the_proxy_and_exemptions_are_kept() {
        let environment = ProxyEnvironment {
            proxy: "127.0.0.1:1080".parse().expect("an address"),
            credentials: Some(("u".to_owned(), "secret".to_owned())),
        };
        let inherited = [("NO_PROXY".into(), "registry.example".into())];
        let variables = environment.variables(&inherited);
        let value = |name: &str| {
            let found = variables.iter().find(|(key, _)| key == name);
            found.expect(name).1.to_str().expect("text").to_owned()
        };
        assert_eq!(value("http_proxy"), "http://u:secret@127.0.0.1:1080");
        assert_eq!(value("ALL_PROXY"), "socks5h://u:secret@127.0.0.1:1080");
        assert_eq!(value("no_proxy"), "localhost,127.0.0.1,::1,registry.example");
        assert!(!format!("{environment:?}").contains("secret"));
    }
}
