//! Metrics of memory, disk and database, read on each scrape.

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Label, process_memory};

/// Gauge without labels that is absent until it is first set.
type OptionalGauge = Family<[(&'static str, &'static str); 0], Gauge>;

/// Connections of a database pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// Pool name.
    pub name: &'static str,
    /// Open connections.
    pub size: usize,
    /// Idle connections.
    pub idle: usize,
    /// Maximum number of connections.
    pub max: usize,
}

/// Metrics of memory, disk and database.
#[derive(Clone, Debug)]
pub struct Resources {
    resident: OptionalGauge,
    device: Family<Label, Gauge>,
    pool_size: Family<Label, Gauge>,
    pool_idle: Family<Label, Gauge>,
    pool_in_use: Family<Label, Gauge>,
    pool_max: Family<Label, Gauge>,
    disk_free: OptionalGauge,
    disk_total: OptionalGauge,
    disk_low: OptionalGauge,
    database_damaged: Gauge,
}

impl Resources {
    pub(super) fn new() -> Self {
        let (resident, device, pool_size, pool_idle, pool_in_use, pool_max) = Default::default();
        let (disk_free, disk_total, disk_low, database_damaged) = Default::default();
        Self {
            resident,
            device,
            pool_size,
            pool_idle,
            pool_in_use,
            pool_max,
            disk_free,
            disk_total,
            disk_low,
            database_damaged,
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { resident, device, pool_size, pool_idle, pool_in_use, pool_max, .. } = self.clone();
        let Self { disk_free, disk_total, disk_low, database_damaged, .. } = self.clone();
        registry.register("process_resident_memory_bytes", "Resident memory of the process; Linux only", resident);
        registry.register(
            "thorax_device_memory_bytes",
            "GPU memory used by tensors (in_use) and reserved by memory pools (reserved); absent on the CPU",
            device,
        );
        registry.register("thorax_sqlite_pool_size", "Open database connections", pool_size);
        registry.register("thorax_sqlite_pool_idle", "Idle database connections", pool_idle);
        registry.register("thorax_sqlite_pool_in_use", "Database connections executing a query", pool_in_use);
        registry.register("thorax_sqlite_pool_max", "Maximum number of database connections", pool_max);
        registry.register("thorax_disk_free_bytes", "Free space on the disk of the data folder", disk_free);
        registry.register("thorax_disk_size_bytes", "Size of the disk of the data folder", disk_total);
        registry.register(
            "thorax_disk_low_bytes",
            "Free space below which the server warns (THORAX_LOW_DISK_BYTES)",
            disk_low,
        );
        registry.register(
            "thorax_database_damaged",
            "1 if the database is damaged or was replaced, and is not written to, else 0",
            database_damaged,
        );
    }

    /// Reads the resident memory of the process.
    pub fn update_process(&self) {
        if let Some(bytes) = process_memory("VmRSS:") {
            self.resident.get_or_create(&[]).set(gauge(bytes));
        }
    }

    /// Sets the memory of the device, in bytes.
    pub fn device(&self, in_use: u64, reserved: u64) {
        self.device.get_or_create(&[("kind", "in_use")]).set(gauge(in_use));
        self.device.get_or_create(&[("kind", "reserved")]).set(gauge(reserved));
    }

    /// Sets the space on the disk of the data folder, and the limit below which the server warns, in bytes.
    pub fn disk(&self, free: u64, total: u64, low: u64) {
        self.disk_free.get_or_create(&[]).set(gauge(free));
        self.disk_total.get_or_create(&[]).set(gauge(total));
        self.disk_low.get_or_create(&[]).set(gauge(low));
    }

    /// Sets whether the database is damaged.
    pub fn database_damaged(&self, is_damaged: bool) {
        self.database_damaged.set(is_damaged.into());
    }

    /// Sets the connections of a database pool.
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
