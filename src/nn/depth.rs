//! Learning rates by depth: lower layers of a pretrained body may move less than those above (Howard & Ruder 2018, arXiv:1801.06146).

use burn::{
    lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler},
    module::ParamGroup,
};

use super::Network;

/// The learning rates of a network's layers, relative to its head's.
pub struct LayerRates {
    /// The body's parameters, from the group next to the head down to the first; none when all rates are the same.
    groups: Vec<ParamGroup>,
    decay: f64,
}

impl LayerRates {
    /// Each group of the body has `decay` times the rate of the one above.
    pub fn new(network: &Network, decay: f64) -> Self {
        let groups = if decay == 1.0 { Vec::new() } else { network.body.groups() };
        Self { groups, decay }
    }

    /// The rates when the head's is `rate`.
    pub fn at(&self, rate: f64) -> ModuleLearningRate {
        let below = self.groups.iter().zip(1..);
        let rates = ModuleLrScheduler::new(rate);
        below.fold(rates, |rates, (group, depth)| rates.with_group(group.clone(), rate * self.decay.powi(depth))).step()
    }
}
