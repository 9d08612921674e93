//! The JSON of the control protocol (`tailcfg`), as tolerant as its servers need: absent, `null` and empty lists are
//! what the protocol makes of them, unknown fields and values are nothing, and of a list only the elements that cannot
//! be read are left out.

mod addresses;
mod netmap;
mod read;
mod request;
mod response;
mod time;

pub(super) use netmap::update;
pub(super) use request::{AuthInfo, Hostinfo, MapRequest, NetInfo, PingResponse, RegisterRequest};
pub(super) use response::{MapResponse, PingRequest, RegisterResponse};
pub(super) use time::{http_date, rfc3339};

/// Reads a message of the map poll; `None` if it is none. Keys expire by `now`.
pub fn map_update(json: &[u8], now: std::time::SystemTime) -> Option<adit_tailscale::netmap::Update> {
    let message: MapResponse<'_> = serde_json::from_slice(json).ok()?;
    Some(update(&message, now, now))
}

#[cfg(test)]
mod tests;
