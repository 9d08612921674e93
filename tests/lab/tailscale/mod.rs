//! Tailnets: Headscale, relays and nodes of the reference client.

mod reference;

use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
