//! The congestion controls, of which a sender has one.

use super::bbr::{Bbr, SavedBbr};
use super::cubic::{Cubic, Curve};
use crate::CongestionControl;

/// A congestion control.
#[derive(Debug)]
pub(super) enum Controller {
    Cubic(Cubic),
    Bbr(Box<Bbr>),
}

/// What is restored when losses turn out to be none.
#[derive(Clone, Copy, Debug)]
pub(super) enum SavedControl {
    Cubic(Curve),
    Bbr(SavedBbr),
}

impl Controller {
    pub(super) fn new(control: CongestionControl) -> Self {
        match control {
            CongestionControl::Cubic => Self::Cubic(Cubic::new()),
            CongestionControl::Bbr => Self::Bbr(Box::new(Bbr::new())),
        }
    }

    pub(super) fn cubic(&mut self) -> Option<&mut Cubic> {
        match self {
            Self::Cubic(cubic) => Some(cubic),
            Self::Bbr(_) => None,
        }
    }

    pub(super) fn is_bbr(&self) -> bool {
        matches!(self, Self::Bbr(_))
    }

    pub(super) fn save(&self) -> SavedControl {
        match self {
            Self::Cubic(cubic) => SavedControl::Cubic(cubic.save()),
            Self::Bbr(bbr) => SavedControl::Bbr(bbr.save()),
        }
    }

    /// Takes back what losses did so many nanoseconds ago.
    pub(super) fn restore(&mut self, saved: &SavedControl, ago: u64) {
        match (self, saved) {
            (Self::Cubic(cubic), SavedControl::Cubic(saved)) => cubic.restore(saved, ago),
            (Self::Bbr(bbr), SavedControl::Bbr(saved)) => bbr.restore(saved),
            _ => {}
        }
    }
}
