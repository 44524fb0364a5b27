//! Memory and the database's connections: read when somebody asks.

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Label, process_memory};

/// No label: for what is left out where it is not known.
type Maybe = Family<[(&'static str, &'static str); 0], Gauge>;

/// Connections of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// Its name.
    pub name: &'static str,
    /// Open ones.
    pub size: usize,
    /// Of these, waiting for a query.
    pub idle: usize,
    /// Most that it opens.
    pub max: usize,
}

/// What is measured of memory and connections.
#[derive(Clone, Debug)]
pub struct Resources {
    resident: Maybe,
    device: Family<Label, Gauge>,
    pool_size: Family<Label, Gauge>,
    pool_idle: Family<Label, Gauge>,
    pool_in_use: Family<Label, Gauge>,
    pool_max: Family<Label, Gauge>,
}

impl Resources {
    pub(super) fn new() -> Self {
        let (resident, device, pool_size, pool_idle, pool_in_use, pool_max) = Default::default();
        Self { resident, device, pool_size, pool_idle, pool_in_use, pool_max }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { resident, device, pool_size, pool_idle, pool_in_use, pool_max } = self.clone();
        registry.register(
            "process_resident_memory_bytes",
            "Memory of the process that is in RAM; left out where the system does not tell it",
            resident,
        );
        registry.register(
            "thorax_device_memory_bytes",
            "Memory of the device, taken by tensors (in_use) and held by its pools (reserved); left out where it is not known",
            device,
        );
        registry.register("thorax_sqlite_pool_size", "Open connections to the database", pool_size);
        registry.register("thorax_sqlite_pool_idle", "Open connections that wait for a query", pool_idle);
        registry.register("thorax_sqlite_pool_in_use", "Open connections that are at a query", pool_in_use);
        registry.register("thorax_sqlite_pool_max", "Most connections that the pool opens", pool_max);
    }

    /// Looks at the process.
    pub fn look(&self) {
        if let Some(bytes) = process_memory("VmRSS:") {
            self.resident.get_or_create(&[]).set(gauge(bytes));
        }
    }

    /// Memory of the device.
    pub fn device(&self, in_use: u64, reserved: u64) {
        self.device.get_or_create(&[("kind", "in_use")]).set(gauge(in_use));
        self.device.get_or_create(&[("kind", "reserved")]).set(gauge(reserved));
    }

    /// Connections to the database.
    pub fn pool(&self, usage: PoolUsage) {
        let PoolUsage { name, size, idle, max } = usage;
        let label = [("pool", name)];
        self.pool_size.get_or_create(&label).set(gauge(size as u64));
        self.pool_idle.get_or_create(&label).set(gauge(idle as u64));
        self.pool_in_use.get_or_create(&label).set(gauge(size.saturating_sub(idle) as u64));
        self.pool_max.get_or_create(&label).set(gauge(max as u64));
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
