//! What people and programs see: results on stdout, everything else on stderr.

mod ask;
pub mod logging;
mod message;
pub(crate) mod moving;
pub(crate) mod qr;
mod ui;

pub use ui::Ui;
