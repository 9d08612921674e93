//! Credentials and profiles: wg-quick files, secrets, the state store.
