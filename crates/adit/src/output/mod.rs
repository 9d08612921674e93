//! What people and programs see: results on stdout, everything else on stderr.

mod failure;
pub mod logging;
mod ui;

pub use ui::Ui;
