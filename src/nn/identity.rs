//! Parameter identities: an optimizer record refers to the parameters of a network by them.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::Tensor,
};

/// Identity of each parameter, by its path in the network.
pub type Identities = BTreeMap<String, u64>;

/// Reads the identities of a module's parameters.
pub(super) fn read<M: Module>(module: &M) -> Identities {
    let mut reader = Reader::default();
    module.visit(&mut reader);
    reader.identities
}

/// Assigns identities to the parameters of a module. Parameters without an entry keep theirs.
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
