//! Layer-wise learning rates: lower layers of a pretrained body train at lower rates (discriminative fine-tuning, Howard & Ruder 2018,
//! arXiv:1801.06146).

use burn::{
    lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler},
    module::ParamGroup,
};

use super::Network;

/// Learning rates of the layers of a network, relative to that of its head.
pub struct LayerRates {
    /// Parameter groups of the body, from the one next to the head to the first. Empty if all rates are equal.
    groups: Vec<ParamGroup>,
    decay: f64,
}

impl LayerRates {
    /// Each group of the body gets `decay` times the rate of the next higher one.
    pub fn new(network: &Network, decay: f64) -> Self {
        let groups = if decay == 1.0 { Vec::new() } else { network.body.parameter_groups() };
        Self { groups, decay }
    }

    /// The learning rates for a rate of `rate` at the head.
    pub fn at(&self, rate: f64) -> ModuleLearningRate {
        let groups = self.groups.iter().zip(1..);
        let rates = ModuleLrScheduler::new(rate);
        groups
            .fold(rates, |rates, (group, depth)| rates.with_group(group.clone(), rate * self.decay.powi(depth)))
            .step()
    }
}
