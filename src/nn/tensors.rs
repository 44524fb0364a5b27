//! Tensors by name: how a module's parameters leave it and come back.
//!
//! Names and layouts are PyTorch's: a batch norm has `weight`, `bias`, `running_mean` and `running_var`, a linear
//! layer's weight is `[out, in]` (Burn keeps `[in, out]`), and `downsample` is a sequence of two.

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
    /// Extents, outermost first.
    pub(crate) shape: Vec<usize>,
    /// Row by row.
    pub(crate) values: Vec<f32>,
}

impl HostTensor {
    /// `[rows, columns]` to `[columns, rows]`.
    pub(crate) fn transposed(&self) -> Self {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let column = |c| (0..rows).map(move |r| self.values[r * columns + c]);
        Self { shape: vec![columns, rows], values: (0..columns).flat_map(column).collect() }
    }
}

/// Tensors by name, in the order of their names.
pub(crate) type NamedTensors = BTreeMap<String, HostTensor>;

/// The module's tensors, read from the device.
pub(crate) fn collect<M: Module>(module: &M) -> NamedTensors {
    let mut collector = Collector { path: Path::default(), tensors: NamedTensors::new() };
    // `valid` takes in the last update of the batch norms' statistics; without it they lag one batch behind.
    module.valid().visit(&mut collector);
    collector.tensors
}

/// Names and shapes of the module's tensors, without reading them, in the module's order.
pub(crate) fn layout<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    let mut layout = Layout::default();
    module.visit(&mut layout);
    layout.tensors
}

/// The module with all its parameters replaced. Error if one is missing, surplus or of another shape; `prefix`
/// goes before the names in the message.
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

/// Where a traversal is.
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
        let named = self.parts.iter().filter(|(_, container)| !container.starts_with("Enum:"));
        let parts: Vec<&str> = named.map(|(name, container)| torch_name(name, container)).collect();
        parts.join(".")
    }

    /// Whether the tensor here is laid out the other way round in PyTorch.
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
    /// The tensor for a parameter of that shape, in Burn's layout.
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

/// The numbers of a tensor on the CPU row by row, in a buffer that holds no others.
pub(super) fn rows<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let tensor = tensor.try_into_primitive::<Flex>().expect("a tensor on the CPU without autodiff");
    // As it is, where it is so already; the other handle is gone before anybody writes.
    tensor.to_contiguous()
}
