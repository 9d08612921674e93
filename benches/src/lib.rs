//! What benchmarks share: network stacks back to back in memory, tunnels back to back, and their floors.

mod pair;
mod path;

pub use pair::{Pair, SERVER, Wire};
pub use path::{BATCH, Floor, Path, packet, super_segment};
