//! Reads and replaces the parameters of a module as named tensors.
//!
//! Names and layouts are those of PyTorch: batch normalisation has `weight`, `bias`, `running_mean` and `running_var`; the weight of a linear
//! layer is `[out, in]` (`[in, out]` in Burn); `downsample` is a sequence of two layers.

use std::collections::BTreeMap;

use burn::{
    backend::{Flex, flex::FlexTensor},
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Tensor, TensorData},
};

use super::NnError;

/// A tensor in main memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostTensor {
    /// Dimensions, outermost first.
    pub(crate) shape: Vec<usize>,
    /// Values in row-major order.
    pub(crate) values: Vec<f32>,
}

impl HostTensor {
    /// Transposes `[rows, columns]` to `[columns, rows]`.
    pub(crate) fn transposed(&self) -> Self {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let column = |c| (0..rows).map(move |r| self.values[r * columns + c]);
        Self { shape: vec![columns, rows], values: (0..columns).flat_map(column).collect() }
    }
}

/// Tensors by name, sorted by name.
pub(crate) type NamedTensors = BTreeMap<String, HostTensor>;

/// Reads the tensors of a module from the device.
pub(crate) fn collect<M: Module>(module: &M) -> NamedTensors {
    let mut collector = Collector { path: Path::default(), tensors: NamedTensors::new() };
    // `valid` applies the last update of the running statistics; without it they are one batch behind.
    module.valid().visit(&mut collector);
    collector.tensors
}

/// Names and shapes of the tensors of a module, in the module's order, without reading the tensors.
pub(crate) fn layout<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    let mut layout = Layout::default();
    module.visit(&mut layout);
    layout.tensors
}

/// Replaces all parameters of a module. `prefix` is prepended to the names in error messages.
///
/// # Errors
/// If a tensor is missing, unexpected or of the wrong shape.
pub(crate) fn replace<M: Module>(module: M, tensors: NamedTensors, prefix: &str) -> Result<M, NnError> {
    let mut replacer = Replacer { path: Path::default(), tensors, prefix, error: None };
    let module = module.map(&mut replacer);
    if let Some(error) = replacer.error {
        return Err(error);
    }
    match replacer.tensors.first_key_value() {
        Some((name, _)) => Err(NnError::tensor(&format!("{prefix}{name}"), "the network has no such tensor")),
        None => Ok(module),
    }
}

/// Path of a traversal in the module tree.
#[derive(Default)]
struct Path {
    parts: Vec<(String, String)>,
}

impl Path {
    fn enter(&mut self, name: &str, container: &str) {
        self.parts.push((name.into(), container.into()));
    }

    fn exit(&mut self) {
        self.parts.pop();
    }

    fn name(&self) -> String {
        let components = self.parts.iter().filter(|(_, container)| !container.starts_with("Enum:"));
        let parts: Vec<&str> = components.map(|(name, container)| torch_name(name, container)).collect();
        parts.join(".")
    }

    /// True if the tensor at this path is transposed in PyTorch.
    fn is_transposed(&self) -> bool {
        self.parts.last().is_some_and(|(name, container)| name == "weight" && container == "Struct:Linear")
    }
}

fn torch_name<'a>(name: &'a str, container: &str) -> &'a str {
    match (container, name) {
        ("Struct:BatchNorm", "gamma") => "weight",
        ("Struct:BatchNorm", "beta") => "bias",
        ("Struct:Downsample", "conv") => "0",
        ("Struct:Downsample", "norm") => "1",
        _ => name,
    }
}

struct Collector {
    path: Path,
    tensors: NamedTensors,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let values = tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32");
        let host = HostTensor { shape, values };
        let host = if self.path.is_transposed() { host.transposed() } else { host };
        self.tensors.insert(self.path.name(), host);
    }
}

#[derive(Default)]
struct Layout {
    path: Path,
    tensors: Vec<(String, Vec<usize>)>,
}

impl ModuleVisitor for Layout {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let mut shape = param.lazy_shape().to_vec();
        if self.path.is_transposed() {
            shape.reverse();
        }
        self.tensors.push((self.path.name(), shape));
    }
}

struct Replacer<'a> {
    path: Path,
    tensors: NamedTensors,
    prefix: &'a str,
    error: Option<NnError>,
}

impl Replacer<'_> {
    /// Removes and returns the tensor for the current parameter of shape `shape`, in Burn's layout.
    fn take(&mut self, mut shape: Vec<usize>) -> Result<HostTensor, NnError> {
        let name = self.path.name();
        let full = format!("{}{name}", self.prefix);
        let host = self.tensors.remove(&name).ok_or_else(|| NnError::tensor(&full, "is missing"))?;
        if self.path.is_transposed() {
            shape.reverse();
        }
        if host.shape != shape {
            return Err(NnError::tensor(&full, format!("has shape {:?}, the network needs {shape:?}", host.shape)));
        }
        Ok(if self.path.is_transposed() { host.transposed() } else { host })
    }
}

impl ModuleMapper for Replacer<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match self.take(param.lazy_shape().to_vec()) {
            Ok(host) => {
                let data = TensorData::new(host.values, host.shape);
                let tensor = Tensor::from_data(data, &param.lazy_device());
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// The values of a CPU tensor in row-major order, in a buffer of their own.
pub(super) fn rows<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let tensor = tensor.try_into_primitive::<Flex>().expect("a CPU tensor without autodiff");
    // Returns the same buffer if it is contiguous already. The argument is dropped here, so the caller can write in place.
    tensor.to_contiguous()
}
