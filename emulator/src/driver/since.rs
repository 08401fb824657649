//! The functions that old drivers lack.

/// The variable that names the version of the driver, such as 12000. The library then lacks the
/// symbols of later ones.
pub(crate) const VARIABLE: &str = "BAGDOT_EMULATE_DRIVER";

/// The functions that are of CUDA 11.0 or later, each with the first version of CUDA whose driver
/// has it. No other function of the library may call them, since a library that lacks their symbols
/// could not be loaded.
const SINCE: [(&str, i32); 27] = [
    ("cuCtxCreate_v3", 11_040),
    ("cuCtxCreate_v4", 12_050),
    ("cuCtxSetFlags", 12_010),
    ("cuDeviceGetDefaultMemPool", 11_020),
    ("cuDeviceGetMemPool", 11_020),
    ("cuDeviceGetUuid_v2", 11_040),
    ("cuDevicePrimaryCtxRelease_v2", 11_000),
    ("cuDevicePrimaryCtxReset_v2", 11_000),
    ("cuDeviceSetMemPool", 11_020),
    ("cuEventElapsedTime_v2", 12_080),
    ("cuGraphDebugDotPrint", 11_030),
    ("cuGraphInstantiateWithFlags", 11_040),
    ("cuGraphUpload", 11_010),
    ("cuLaunchKernelEx", 11_080),
    ("cuMemAdvise_v2", 12_020),
    ("cuMemAllocAsync", 11_020),
    ("cuMemAllocFromPoolAsync", 11_020),
    ("cuMemFreeAsync", 11_020),
    ("cuMemPoolCreate", 11_020),
    ("cuMemPoolDestroy", 11_020),
    ("cuMemPoolGetAttribute", 11_020),
    ("cuMemPoolSetAttribute", 11_020),
    ("cuMemPoolTrimTo", 11_020),
    ("cuMemPrefetchAsync_v2", 12_020),
    ("cuOccupancyAvailableDynamicSMemPerBlock", 11_000),
    ("cuOccupancyMaxActiveClusters", 11_080),
    ("cuOccupancyMaxPotentialClusterSize", 11_080),
];

/// Returns the names of the functions that a driver of this version lacks.
pub(crate) fn lacking(version: i32) -> impl Iterator<Item = &'static str> {
    SINCE.iter().filter(move |(_, since)| *since > version).map(|(name, _)| *name)
}

/// Returns the version of the driver that `VARIABLE` names.
pub(crate) fn asked() -> Option<i32> {
    std::env::var(VARIABLE).ok()?.parse().ok()
}
