//! Linear interpolation between two networks.

use burn::{
    backend::Flex,
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Device, Tensor},
};

use super::{Network, tensors::rows};

impl Network {
    /// Linear interpolation `self + weight * (other - self)` of all weights and running statistics; `weight` is 0 to 1. Both networks are in
    /// inference mode and have the same architecture. Clones of this network share its running statistics ([`Network`]) and change too.
    pub fn lerp(self, other: &Self, weight: f64) -> Self {
        let mut collector = Collector::default();
        other.visit(&mut collector);
        self.map(&mut Interpolator { others: collector.flat.into_iter(), weight })
    }
}

/// Collects the tensors of a module in its order, each flattened.
#[derive(Default)]
struct Collector {
    flat: Vec<Tensor<1>>,
}

impl ModuleVisitor for Collector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let count = tensor.shape().num_elements();
        self.flat.push(tensor.reshape([count]));
    }
}

struct Interpolator {
    others: std::vec::IntoIter<Tensor<1>>,
    weight: f64,
}

impl ModuleMapper for Interpolator {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let other = self.others.next().expect("both networks have the same tensors");
        param.map(|tensor| lerp(tensor, other, self.weight))
    }
}

/// Interpolates a tensor; on the CPU in place, unless the tensor is shared.
fn lerp<const D: usize>(tensor: Tensor<D>, other: Tensor<1>, weight: f64) -> Tensor<D> {
    if tensor.device() != Device::flex() {
        let distance = other.reshape(tensor.dims()) - tensor.clone();
        return tensor + distance.mul_scalar(weight);
    }
    let (mut numbers, others) = (rows(tensor), rows(other));
    thorax_kernels::lerp(super::team(), numbers.storage_mut(), others.storage(), weight as f32);
    Tensor::from_primitive::<Flex>(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation},
        nn::tensors,
    };

    #[test]
    fn lerp_interpolates_all_weights_and_running_statistics() {
        let spec = ModelSpec {
            architecture: Architecture::ResNet50,
            block_variant: BlockVariant::V1,
            classes: ClassList::default(),
            image_size: 32,
            normalisation: Normalisation { scale: 1.0, mean: [0.0; 3], std: [1.0; 3] },
            dropout: 0.0,
        };
        let [one, other] = [1, 2].map(|seed| Network::random(&spec, seed, &Device::flex()).valid());
        let same = other.clone().lerp(&other.valid(), 1.0);
        assert_eq!(tensors::collect(&same), tensors::collect(&other));
        let between = one.valid().lerp(&other, 0.25);
        let [one, other, between] = [one, other, between].map(|network| tensors::collect(&network));
        assert!(between.keys().any(|name| name.ends_with("running_var")));
        for (name, tensor) in &between {
            for (i, value) in tensor.values.iter().enumerate() {
                let (from, to) = (one[name].values[i], other[name].values[i]);
                assert!((value - (0.75 * from + 0.25 * to)).abs() < 1e-6, "{name}");
            }
        }
    }
}
