//! The TUN device of `adit up`: whether there can be one, and what a killed run has left of one.

use std::path::{Path, PathBuf};

use adit_intercept::probe;
use adit_path::{End, EngineOptions, TunOptions, repair_tun};
use adit_providers::StateDir;

use crate::config::{Mode, Origin, Settings};
use crate::{Exit, Failure, failure};

/// Where the originals of what is replaced are kept, unless --state-dir says otherwise. A machine may lose power while
/// its `resolv.conf` is replaced, so this place outlives that.
const STATE: &str = "/var/lib/adit";

/// Where the packets of an `adit up` go.
#[derive(Debug)]
pub(crate) enum Served {
    /// The netstack of this process; the machine stays as it is.
    Userspace,
    /// A TUN device.
    Tun(Device),
}

/// The right to make the device, and the place that keeps what it replaces. One process has it at a time.
#[derive(Debug)]
pub(crate) struct Device {
    options: TunOptions,
    /// Holds the lock.
    _state: StateDir,
}

impl Served {
    /// What the settings ask for. Nothing is changed yet, other than that what a killed run left behind is put back.
    /// `say` learns why a device that was allowed is not made.
    ///
    /// # Errors
    /// The mode is one of `exec`, or a device was asked for and there can be none.
    pub(crate) fn of(settings: &Settings, force: bool, say: &dyn Fn(&str)) -> Result<Self, Failure> {
        let mode = &settings.mode;
        let named = !matches!(mode.origin, Origin::Default);
        let on_the_line = !matches!(mode.origin, Origin::File { .. });
        let possible = || possible(settings);
        match mode.value {
            Mode::Tun => {
                possible()?;
                Ok(Self::Tun(Device::open(settings, force)?))
            }
            Mode::Auto if named => match possible() {
                Ok(()) => Ok(Self::Tun(Device::open(settings, force)?)),
                Err(failure) if settings.strict.value => Err(failure),
                Err(failure) => {
                    say(&format!(
                        "no TUN device: {}; the network stack of this process is used",
                        failure.summary
                    ));
                    Ok(Self::Userspace)
                }
            },
            Mode::Seccomp | Mode::Env if on_the_line => {
                Err(failure::usage(format!("{} is a mode of `exec`, not of `up`", mode.value.word()))
                    .with_fix(vec!["use --mode userspace, tun or auto".to_owned()]))
            }
            // A profile's mode of `exec` says nothing about `up`.
            Mode::Auto | Mode::Userspace | Mode::Seccomp | Mode::Env => {
                repair(settings.state_dir.value.as_deref())?;
                Ok(Self::Userspace)
            }
        }
    }

    /// The word for `status` and reports.
    pub(crate) fn mode(&self) -> Mode {
        match self {
            Self::Userspace => Mode::Userspace,
            Self::Tun(_) => Mode::Tun,
        }
    }

    /// The device's name.
    pub(crate) fn device(&self) -> Option<String> {
        match self {
            Self::Userspace => None,
            Self::Tun(device) => Some(device.options.name.clone()),
        }
    }

    /// Leads the packets of an engine there.
    pub(crate) fn lead(&self, options: &mut EngineOptions) {
        if let Self::Tun(device) = self {
            options.end = End::Tun(device.options.clone());
        }
    }
}

impl Device {
    fn open(settings: &Settings, force: bool) -> Result<Self, Failure> {
        let path = place(settings.state_dir.value.as_deref());
        let state = StateDir::open(&path).map_err(|problem| failure::of_problem(problem, ""))?;
        let options = TunOptions { force, ..TunOptions::new(&path) };
        // Before anything is looked up: a killed run's resolv.conf leads into a tunnel that is gone.
        put_back(&options)?;
        Ok(Self { options, _state: state })
    }
}

/// Whether this process may make a device, or one sentence why not and what to do.
fn possible(settings: &Settings) -> Result<(), Failure> {
    if !settings.allow.value.is_empty() {
        // The kernel asks nobody before it sends a packet into a device.
        return Err(failure::usage("the profile's allow list cannot bind programs that use a TUN device")
            .with_fix(vec!["use --mode userspace, or remove the allow list".to_owned()]));
    }
    probe::tun_device().map_err(|(class, reason)| {
        let mut failure =
            failure::of(class, format!("a TUN device cannot be made here: {reason}")).with_fix(vec![
                "use --mode userspace, which needs no device, with `adit exec`, a proxy or forwards"
                    .to_owned(),
                "in Docker, add: --device /dev/net/tun --cap-add NET_ADMIN; elsewhere run as root".to_owned(),
            ]);
        // A mere note to whoever wants no device; here nothing runs without it.
        failure.exit = Exit::Environment;
        failure
    })
}

/// Puts back what a killed run with a device has left: the machine's resolver configuration and guard routes. Returns
/// whether there was something. What belongs to a process that runs stays.
///
/// # Errors
/// Files or routes cannot be changed.
pub(crate) fn repair(state: Option<&Path>) -> Result<bool, Failure> {
    let path = place(state);
    let left = rustix::process::geteuid().is_root() && path.is_dir();
    // Another process may be using it, or it is not ours to touch.
    let Some(_lock) = left.then(|| StateDir::open(&path).ok()).flatten() else { return Ok(false) };
    put_back(&TunOptions::new(&path))
}

fn put_back(options: &TunOptions) -> Result<bool, Failure> {
    let repaired = repair_tun(options);
    repaired
        .inspect(|found| {
            if *found {
                tracing::info!("what an earlier run left behind was put back");
            }
        })
        .map_err(|error| {
            failure::of("env.readonly_fs", "what an earlier run with a TUN device left cannot be put back")
                .seen(error.to_string())
                .with_fix(vec![format!(
                    "put {}/resolv.conf.original back to /etc/resolv.conf, and remove that file",
                    options.state.display()
                )])
        })
}

fn place(state: Option<&Path>) -> PathBuf {
    state.map_or_else(|| PathBuf::from(STATE), Path::to_owned)
}
