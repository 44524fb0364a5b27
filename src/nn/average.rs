//! Networks between two networks.

use burn::{
    backend::Flex,
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Device, Tensor},
};

use super::{Network, tensors::rows};

impl Network {
    /// This network with every weight and running statistic moved towards `other`'s by `share` of the distance, 0 to 1. Both are in
    /// inference mode and of one architecture. The statistics of clones of this network move along: see [`Network`].
    pub fn towards(self, other: &Self, share: f64) -> Self {
        let mut values = Values::default();
        other.visit(&mut values);
        self.map(&mut Mover { others: values.flat.into_iter(), share })
    }
}

/// The tensors of a module in its order, each as one row.
#[derive(Default)]
struct Values {
    flat: Vec<Tensor<1>>,
}

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let count = tensor.shape().num_elements();
        self.flat.push(tensor.reshape([count]));
    }
}

struct Mover {
    others: std::vec::IntoIter<Tensor<1>>,
    share: f64,
}

impl ModuleMapper for Mover {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let other = self.others.next().expect("both networks have the same tensors");
        param.map(|tensor| moved(tensor, other, self.share))
    }
}

/// On the CPU in place, unless somebody else holds the tensor.
fn moved<const D: usize>(tensor: Tensor<D>, other: Tensor<1>, share: f64) -> Tensor<D> {
    if tensor.device() != Device::flex() {
        let distance = other.reshape(tensor.dims()) - tensor.clone();
        return tensor + distance.mul_scalar(share);
    }
    let (mut numbers, others) = (rows(tensor), rows(other));
    thorax_kernels::lerp(thorax_kernels::team(), numbers.storage_mut(), others.storage(), share as f32);
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
    fn every_tensor_moves_by_the_share_and_the_statistics_too() {
        let spec = ModelSpec {
            architecture: Architecture::ResNet50,
            block_variant: BlockVariant::V1,
            classes: ClassList::default(),
            image_size: 32,
            normalisation: Normalisation { scale: 1.0, mean: [0.0; 3], std: [1.0; 3] },
            dropout: 0.0,
        };
        let [one, other] = [1, 2].map(|seed| Network::random(&spec, seed, &Device::flex()).valid());
        let doubled = other.clone().towards(&other.valid(), 1.0);
        assert_eq!(tensors::collect(&doubled), tensors::collect(&other));
        let between = one.valid().towards(&other, 0.25);
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
