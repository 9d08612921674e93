//! From the settings of a tailnet to what a node of it is started with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adit_providers::tailscale::{
    API, Auth, ControlUrl, Identity, KeyMaker, Proxies, Reach, auth_key, client_config, hostname,
    kept_control, trusted,
};
use adit_providers::{Problem, Reader, Secret, SecretSource, StateDir};
use adit_tailscale::AcceptRoutes;
use adit_tunnel::Prefix;

use super::openvpn::read;
use super::{Failures, Overrides, Setting, Settings};
use crate::failure::{self, Failure};
use crate::tailnet::{Kept, TailnetConfig};

/// How a node would join, for people. It holds no secret.
#[derive(Debug)]
pub struct Joining {
    /// The control server.
    pub control: ControlUrl,
    /// What will be done, by key.
    pub facts: Vec<(&'static str, Vec<String>)>,
    /// The flags that a connection needs and that are not given.
    pub needs: Vec<&'static str>,
}

/// The variables that name a run, the surest first.
const RUNS: [&str; 4] = ["FABRO_RUN_ID", "GITHUB_RUN_ID", "CI_JOB_ID", "BUILD_ID"];

impl Settings {
    /// What a node of the tailnet is started with. The second value is what is doubtful. With a state directory it is
    /// opened, and locked for as long as the result lives.
    pub(super) fn tailnet(&self, reader: Reader) -> Result<(TailnetConfig, Vec<Failure>), Failures> {
        let mut warnings = Vec::new();
        let auth = self.auth(&reader, &mut warnings)?;
        let control = self.control();
        let kept =
            self.state_dir.value.as_ref().map(|directory| self.kept(directory, &control)).transpose()?;
        let known = kept.as_ref().is_some_and(|kept| kept.identity.is_some());
        let auth = match auth {
            Some(auth) => auth,
            // A node that is known needs nobody; if the server has forgotten it, somebody signs in.
            None if known || self.sign_in || self.ask.is_some() => Auth::Person,
            None => return Err(self.no_way().into()),
        };
        let ephemeral = self.is_ephemeral();
        let config = self.config(auth, kept)?;
        if ephemeral && self.state_dir.value.is_some() {
            warnings.push(
                failure::of(
                    "config.value",
                    "the node is ephemeral, so nothing is left of it for the next run",
                )
                .with_fix(vec!["leave the state directory or `ephemeral` away".to_owned()]),
            );
        }
        Ok((config, self.judged(warnings)?))
    }

    /// Checks what [`tailnet`](Self::tailnet) needs, without the state directory. A way in that is missing is no failure.
    pub(super) fn check_tailnet(&self, reader: Reader) -> Result<(Joining, Vec<Failure>), Failures> {
        let mut warnings = Vec::new();
        let auth = self.auth(&reader, &mut warnings)?;
        let needs =
            if auth.is_none() && self.state_dir.value.is_none() { vec!["--auth-key"] } else { Vec::new() };
        let joining = Joining { control: self.control(), facts: self.facts(auth.as_ref()), needs };
        // The rest is only made to see whether it can be.
        self.config(auth.unwrap_or(Auth::Person), None)?;
        Ok((joining, self.judged(warnings)?))
    }

    fn config(&self, auth: Auth, kept: Option<Kept>) -> Result<TailnetConfig, Failures> {
        let at = |problem: Problem| failure::of_problem(problem, "");
        let ca_file = self.tailnet.ca_file.as_ref().map(|file| file.value.as_path());
        let roots = trusted(ca_file).map_err(at)?;
        let proxies = Proxies::from_env().map_err(at)?;
        let value = |setting: &Option<Setting<bool>>, default| setting.as_ref().map_or(default, |s| s.value);
        let tags = self.tailnet.tags.as_ref().map_or_else(Vec::new, |tags| tags.value.clone());
        if tags.is_empty() && matches!(auth, Auth::Made(_)) {
            return Err(failure::of(
                "ts.oauth.bad",
                "an OAuth client makes keys for tagged nodes only, and no tag is named",
            )
            .with_fix(vec!["name the tags that the client owns: tags = [\"tag:agent\"]".to_owned()])
            .into());
        }
        Ok(TailnetConfig {
            reach: Reach { control: self.control(), proxies, tls: client_config(Arc::clone(&roots)) },
            auth,
            hostname: self.hostname()?,
            tags,
            ephemeral: self.is_ephemeral(),
            shields_up: value(&self.tailnet.shields_up, false),
            roots,
            port: self.tailnet.port.as_ref().map(|port| port.value),
            udp: value(&self.tailnet.udp, true),
            accept_routes: self
                .tailnet
                .routes
                .as_ref()
                .map_or(AcceptRoutes::All, |routes| routes.value.clone()),
            accept_dns: value(&self.tailnet.dns, true),
            exit_node: self.tailnet.exit_node.as_ref().map(|node| node.value.clone()),
            plain_derp: value(&self.tailnet.plain_derp, false),
            kept: kept.map(Arc::new),
        })
    }

    fn control(&self) -> ControlUrl {
        self.tailnet.control.as_ref().map_or_else(ControlUrl::default, |control| control.value.clone())
    }

    /// A node whose identity is kept is there for the next run too.
    fn is_ephemeral(&self) -> bool {
        self.tailnet.ephemeral.as_ref().map_or(self.state_dir.value.is_none(), |ephemeral| ephemeral.value)
    }

    fn kept(&self, directory: &Path, control: &ControlUrl) -> Result<Kept, Failure> {
        let locked = |problem: Problem| match problem.class {
            "env.state_locked" | "env.readonly_fs" => Problem { class: "ts.state.locked", ..problem },
            _ => problem,
        };
        let path = place_of_node(directory, &self.profile.value);
        let state = StateDir::open(&path).map_err(|problem| failure::of_problem(locked(problem), ""))?;
        let identity = Identity::load(&state, control).map_err(|problem| failure::of_problem(problem, ""))?;
        Ok(Kept { state, identity })
    }

    /// What lets the node in; `None` where nothing was said.
    fn auth(&self, reader: &Reader, warnings: &mut Vec<Failure>) -> Result<Option<Auth>, Failures> {
        let reader =
            Reader { consume: self.consume.value, insecure_perms: self.insecure_perms.value, ..*reader };
        let tailnet = &self.tailnet;
        if let [first, second, ..] = tailnet.ways().as_slice() {
            return Err(failure::usage("there is more than one way to be let in")
                .seen(format!("{first} and {second}"))
                .with_fix(vec!["keep one of key, oauth, id_token, audience and browser".to_owned()])
                .into());
        }
        if let Some(key) = &tailnet.key {
            return Ok(Some(self.key_auth(key, &reader, warnings)?));
        }
        let at = |origin: String| move |problem: Problem| failure::of_problem(problem, &origin);
        if let Some(oauth) = &tailnet.oauth {
            let secret = read(Some(oauth), "the secret of the OAuth client", &reader, warnings)?;
            let maker = secret.map(|secret| KeyMaker::oauth(&secret)).transpose();
            let maker = maker.map_err(at(oauth.origin.to_string()))?;
            return Ok(maker.map(|maker| Auth::Made(self.at_api(maker))));
        }
        let token = read(tailnet.id_token.as_ref(), "the identity token", &reader, warnings)?;
        if token.is_some() || tailnet.audience.is_some() {
            return Ok(Some(Auth::Made(self.federated(token)?)));
        }
        Ok(tailnet.browser.as_ref().filter(|browser| browser.value).map(|_| Auth::Person))
    }

    fn key_auth(
        &self,
        key: &Setting<SecretSource>,
        reader: &Reader,
        warnings: &mut Vec<Failure>,
    ) -> Result<Auth, Failures> {
        let origin = key.origin.to_string();
        let at = |problem: Problem| failure::of_problem(problem, &origin);
        let secret = match &self.opened {
            // The key was given in place of a configuration, and has been read: a pipe can be read once.
            Some(opened) => {
                warnings.extend(reader.admit(opened, "the auth key").map_err(at)?.map(at));
                Some(opened.content.clone())
            }
            None => read(Some(key), "the auth key", reader, warnings).map_err(|failure| {
                match failure.class.as_str() {
                    "credential.placeholder" => Failure { class: "ts.key.placeholder".to_owned(), ..failure },
                    _ => failure,
                }
            })?,
        };
        let secret = secret.unwrap_or_else(|| Secret::new(Vec::new()));
        if KeyMaker::is_client(&secret) {
            return Ok(Auth::Made(self.at_api(KeyMaker::oauth(&secret).map_err(at)?)));
        }
        Ok(Auth::Key(auth_key(&secret).map_err(at)?))
    }

    fn federated(&self, token: Option<Secret>) -> Result<KeyMaker, Failures> {
        let Some(client) = self.tailnet.client_id.as_ref().map(|client| client.value.clone()) else {
            return Err(failure::of(
                "ts.wif.rejected",
                "an identity token belongs to a federated identity, and none is named",
            )
            .with_fix(vec![
                "write the client ID that the admin console shows: auth.client_id = \"…\"".to_owned(),
            ])
            .into());
        };
        let base = match &self.tailnet.api {
            Some(api) => api.value.clone(),
            None if self.tailnet.control.is_some() => self.control(),
            None => ControlUrl::parse(API).map_err(|problem| failure::of_problem(problem, ""))?,
        };
        match (token, &self.tailnet.audience) {
            (Some(token), _) => Ok(KeyMaker::federated(client, token, base)),
            (None, Some(audience)) => {
                KeyMaker::github(client, audience.value.clone(), base, |name| std::env::var(name).ok())
                    .map_err(|problem| failure::of_problem(problem, &audience.origin.to_string()).into())
            }
            (None, None) => Err(failure::internal("a federated identity without a token").into()),
        }
    }

    fn at_api(&self, maker: KeyMaker) -> KeyMaker {
        match &self.tailnet.api {
            Some(api) => maker.at(api.value.clone()),
            None => maker,
        }
    }

    fn no_way(&self) -> Failure {
        failure::of("ts.key.missing", "no auth key was given, and nobody signs in here")
            .seen(format!(
                "the profile {} names no key, no OAuth client and no identity token",
                self.profile.value
            ))
            .with_fix(vec![
                "give a key: --auth-key file:PATH, or auth = { key = \"file:PATH\" } in the profile"
                    .to_owned(),
                "or sign in once, and keep the node: adit login --state-dir DIR".to_owned(),
                "or let somebody sign in while the command waits: auth = { browser = true }".to_owned(),
            ])
    }

    /// The name that is asked for; `{run}` stands for the run that this is part of.
    fn hostname(&self) -> Result<String, Failures> {
        let Some(wanted) = &self.tailnet.hostname else {
            return Ok(hostname(&std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default()));
        };
        let name = wanted.value.replace("{run}", &run());
        if name.contains(['{', '}']) {
            return Err(failure::of(
                "config.value",
                format!("`{}` holds a placeholder that is not known", wanted.value),
            )
            .with_fix(vec!["only {run} is replaced, by the number of the run or a random one".to_owned()])
            .into());
        }
        Ok(hostname(&name))
    }

    fn facts(&self, auth: Option<&Auth>) -> Vec<(&'static str, Vec<String>)> {
        let way = match (auth, &self.tailnet.key, &self.tailnet.oauth, &self.tailnet.id_token) {
            (None, ..) => "an identity that is kept, or somebody who signs in".to_owned(),
            (Some(Auth::Person), ..) => "somebody signs in at a page of the control server".to_owned(),
            (Some(Auth::Key(_)), Some(key), ..) => format!("an auth key from {}", key.value),
            (Some(Auth::Made(_)), Some(client), ..) | (Some(Auth::Made(_)), _, Some(client), _) => {
                format!("an auth key for one node, made with the OAuth client from {}", client.value)
            }
            (Some(Auth::Made(_)), _, _, Some(token)) => {
                format!("an auth key for one node, made with the identity token from {}", token.value)
            }
            (Some(_), ..) => "an auth key for one node, made with the identity token of this job".to_owned(),
        };
        let life = match (self.is_ephemeral(), &self.state_dir.value) {
            (true, _) => "ephemeral: deleted at the end, by every way out".to_owned(),
            (false, Some(directory)) => format!("kept in {}", directory.display()),
            (false, None) => "stays with the server after the end, and its keys are forgotten".to_owned(),
        };
        let routes = match self.tailnet.routes.as_ref().map(|routes| &routes.value) {
            None | Some(AcceptRoutes::All) => vec!["all that are not this machine's own".to_owned()],
            Some(AcceptRoutes::None) => vec!["none".to_owned()],
            Some(AcceptRoutes::Within(list)) => list.iter().map(Prefix::to_string).collect(),
        };
        let mut facts = vec![
            ("control", vec![self.control().to_string()]),
            ("joins by", vec![way]),
            ("the node", vec![life]),
            ("routes", routes),
        ];
        if let Ok(name) = self.hostname() {
            facts.push(("asks for the name", vec![name]));
        }
        if let Some(tags) = &self.tailnet.tags {
            facts.push(("asks for the tags", tags.value.clone()));
        }
        if let Some(node) = &self.tailnet.exit_node {
            facts.push(("exit node", vec![node.value.clone()]));
        }
        facts
    }
}

/// The control server of the node that an earlier run has left in the state directory; `unnamed` is the profile where none
/// is named.
pub(super) fn kept(overrides: &Overrides, unnamed: &str) -> Option<Setting<ControlUrl>> {
    let directory = overrides.state_dir.as_ref()?;
    let profile = overrides.profile.as_ref().map_or(unnamed, |profile| &profile.value);
    let control = kept_control(&place_of_node(&directory.value, profile))?;
    Some(Setting::new(control, directory.origin.clone()))
}

/// Where the node of a profile is kept in a state directory.
fn place_of_node(directory: &Path, profile: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    directory.join(format!("tailscale-{}", profile.chars().map(plain).collect::<String>()))
}

/// A word for the run that this process is part of.
fn run() -> String {
    let known = RUNS.iter().find_map(|name| std::env::var(name).ok().filter(|run| !run.trim().is_empty()));
    known.unwrap_or_else(|| format!("{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id())))
}
