//! Running unmodified programs in a [`Network`](adit_path::Network).
