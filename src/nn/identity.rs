//! Parameters' identities: an optimizer knows by them which of its running means are whose.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::Tensor,
};

/// An identity for each parameter, by its place in the network.
pub type Identities = BTreeMap<String, u64>;

/// The identities of a module's parameters.
pub(super) fn read<M: Module>(module: &M) -> Identities {
    let mut reader = Reader::default();
    module.visit(&mut reader);
    reader.identities
}

/// The module with these identities; a parameter that is not among them keeps its own.
pub(super) fn assign<M: Module>(module: M, identities: &Identities) -> M {
    module.map(&mut Assigner { path: Vec::new(), identities })
}

#[derive(Default)]
struct Reader {
    path: Vec<String>,
    identities: Identities,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.identities.insert(self.path.join("."), param.id.val());
    }
}

struct Assigner<'a> {
    path: Vec<String>,
    identities: &'a Identities,
}

impl ModuleMapper for Assigner<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(&identity) = self.identities.get(&self.path.join(".")) else { return param };
        let tensor = param.val();
        param.transform_for_load(tensor, ParamId::from(identity))
    }
}
