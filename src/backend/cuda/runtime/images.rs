//! The compiled kernels that this library carries, and the choice among them for a device and a
//! driver.

use std::fmt;

use super::driver::{DeviceInfo, driver_version};
use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// A compiled kernel file.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) stem: &'static str,
    pub(crate) target: Target,
    pub(crate) bytes: &'static [u8],
}

/// A version of CUDA or of PTX: major and minor.
type Version = (u32, u32);

/// The target for which an image was compiled: a compute capability of devices, and what a driver
/// must know. If `exact`, the image is for this capability alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a library that was built without kernels has no targets")]
pub(crate) enum Target {
    /// Machine code, made by a release of CUDA. Unless `exact`, it is also for later minor versions
    /// of the same major version.
    Cubin { major: u32, minor: u32, exact: bool, toolkit: Version },
    /// PTX of a version, which the driver compiles. Unless `exact`, it is for all later
    /// capabilities.
    Ptx { major: u32, minor: u32, exact: bool, version: Version },
}

impl Target {
    /// Returns the oldest version of CUDA whose drivers load the image. They load machine code of
    /// any release of their own major version and of earlier ones, and PTX of the versions that
    /// their release knows: those of CUDA 11.x know 7.x. From 8.6 on this no longer holds, but
    /// build.rs makes no such PTX.
    fn oldest_driver(self) -> Version {
        match self {
            Self::Cubin { toolkit, .. } => (toolkit.0, 0),
            Self::Ptx { version, .. } => (version.0 + 4, version.1),
        }
    }

    /// Returns how well the image suits a device, more being better; `None` if it does not run
    /// there. Machine code for exactly this capability comes first, then that of the same
    /// generation, by the later toolkit first, then PTX.
    fn rank(self, capability: (u32, u32)) -> Option<(u32, u32, Version)> {
        let is_exact = |major, minor| (major, minor) == capability;
        match self {
            Self::Cubin { major, minor, exact: true, toolkit } => {
                is_exact(major, minor).then_some((3, minor, toolkit))
            }
            Self::Cubin { major, minor, exact: false, toolkit } => {
                (major == capability.0 && minor <= capability.1).then_some((2, minor, toolkit))
            }
            Self::Ptx { major, minor, exact: true, version } => {
                is_exact(major, minor).then_some((1, minor, version))
            }
            Self::Ptx { major, minor, exact: false, version } => {
                (capability >= (major, minor)).then_some((0, minor, version))
            }
        }
    }
}

/// A compiled kernel file that this library carries. Its text is the target and the driver, such as
/// `sm_90a, CUDA 13.0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// The name of the kernel file without its extension.
    pub stem: &'static str,
    /// The target: machine code, such as `sm_90a`, or `ptx`, which the driver compiles. `ptx_90a`
    /// is PTX for capability 9.0 alone, which only the feature `testing` adds.
    pub target: String,
    /// The oldest version of CUDA whose drivers load the image: major and minor.
    pub driver: (u32, u32),
    /// The bytes of the image.
    pub contents: &'static [u8],
    /// The text, if the image is PTX.
    pub ptx: Option<&'static str>,
}

impl fmt::Display for ImageInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.driver;
        write!(f, "{}, CUDA {major}.{minor}", self.target)
    }
}

impl Image {
    fn info(&self) -> ImageInfo {
        ImageInfo {
            stem: self.stem,
            target: match self.target {
                Target::Cubin { major, minor, exact, .. } => {
                    format!("sm_{major}{minor}{}", if exact { "a" } else { "" })
                }
                Target::Ptx { major, minor, exact: true, .. } => format!("ptx_{major}{minor}a"),
                Target::Ptx { exact: false, .. } => "ptx".into(),
            },
            driver: self.target.oldest_driver(),
            contents: self.bytes,
            ptx: match self.target {
                Target::Ptx { .. } => std::str::from_utf8(self.bytes).ok(),
                Target::Cubin { .. } => None,
            },
        }
    }
}

/// Returns all images that this library carries; none if it was built without nvcc.
///
/// ```
/// for image in bagdot::backend::cuda::images() {
///     println!("{} for {image}: {} bytes", image.stem, image.contents.len());
/// }
/// ```
pub fn images() -> Vec<ImageInfo> {
    IMAGES.iter().map(Image::info).collect()
}

/// Returns the image that [`Cuda`](crate::Cuda) loads first on a device, of one kernel file: those
/// of the other files have the same target. If the driver refuses it, the next best one is loaded.
///
/// ```no_run
/// use bagdot::backend::cuda::{devices, image_for};
///
/// for device in devices()? {
///     println!("{}: {}", device.name, image_for(&device)?);
/// }
/// # Ok::<(), bagdot::Error>(())
/// ```
///
/// # Errors
/// Returns [`Error::KernelsNotBuilt`], or [`Error::NoKernelImage`] if the device has no kernels.
/// Propagates errors of [`driver_version`].
pub fn image_for(device: &DeviceInfo) -> Result<ImageInfo> {
    let driver = driver_version()?;
    let stem = IMAGES.first().ok_or(Error::KernelsNotBuilt)?.stem;
    let capability = device.capability;
    let images = candidates(stem, capability, driver)?;
    images.first().map(|image| image.info()).ok_or(Error::NoKernelImage { capability })
}

/// Returns the images of a kernel file that a device takes and that a driver of this version can
/// load, best first; see [`Target::rank`].
///
/// # Errors
/// Returns [`Error::KernelsNotBuilt`] if there are no images at all, and [`Error::NoKernelImage`]
/// if the device takes none.
pub(crate) fn candidates(
    stem: &str,
    capability: (u32, u32),
    driver: i32,
) -> Result<Vec<&'static Image>> {
    if IMAGES.is_empty() {
        return Err(Error::KernelsNotBuilt);
    }
    let driver = driver.unsigned_abs();
    let driver = (driver / 1000, driver % 1000 / 10);
    let mut found: Vec<_> = IMAGES
        .iter()
        .filter(|image| image.stem == stem && image.target.oldest_driver() <= driver)
        .filter_map(|image| Some((image.target.rank(capability)?, image)))
        .collect();
    found.sort_by_key(|&(rank, _)| std::cmp::Reverse(rank));
    match found.is_empty() {
        true => Err(Error::NoKernelImage { capability }),
        false => Ok(found.into_iter().map(|(_, image)| image).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The targets of the images for a device and a driver, without the PTX that the feature
    /// `testing` adds.
    fn targets(capability: (u32, u32), driver: i32) -> Result<Vec<Target>> {
        let shipped = |target: &Target| !matches!(target, Target::Ptx { exact: true, .. });
        candidates("embedding_bag", capability, driver)
            .map(|found| found.iter().map(|image| image.target).filter(shipped).collect())
    }

    const PTX: Target = Target::Ptx { major: 8, minor: 0, exact: false, version: (7, 0) };

    #[test]
    fn devices_get_the_best_image_that_the_driver_can_load() {
        let cubin = |major, minor, exact, toolkit| Target::Cubin { major, minor, exact, toolkit };
        let ampere = |toolkit| cubin(8, 0, false, toolkit);
        let (hopper, older_hopper) = (cubin(9, 0, true, (13, 0)), cubin(9, 0, false, (12, 0)));
        let (new, old) = ((13, 0), (12, 0));
        for driver in [13_000, 13_020, 14_000] {
            assert_eq!(targets((9, 0), driver).unwrap(), [hopper, older_hopper, PTX]);
            assert_eq!(targets((8, 6), driver).unwrap(), [ampere(new), ampere(old), PTX]);
            assert_eq!(targets((10, 3), driver).unwrap(), [cubin(10, 0, false, new), PTX]);
            assert_eq!(targets((13, 0), driver).unwrap(), [PTX]);
        }
        for driver in [12_000, 12_080, 12_090] {
            assert_eq!(targets((9, 0), driver).unwrap(), [older_hopper, PTX]);
            assert_eq!(targets((8, 9), driver).unwrap(), [ampere(old), PTX]);
            assert_eq!(targets((12, 0), driver).unwrap(), [PTX]);
        }
        for driver in [11_000, 11_040, 11_080] {
            assert_eq!(targets((9, 0), driver).unwrap(), [PTX]);
            assert_eq!(targets((8, 0), driver).unwrap(), [PTX]);
        }
        let none = Err(Error::NoKernelImage { capability: (7, 5) });
        assert_eq!(targets((7, 5), 13_000), none);
        assert_eq!(targets((8, 0), 10_020), Err(Error::NoKernelImage { capability: (8, 0) }));
    }

    /// The PTX for 9.0 alone, which tests run, comes behind all machine code, and needs a driver
    /// that reads PTX 8.0.
    #[test]
    fn ptx_for_one_capability_comes_before_that_for_all() {
        let exact = Target::Ptx { major: 9, minor: 0, exact: true, version: (8, 0) };
        let cubin = Target::Cubin { major: 9, minor: 0, exact: true, toolkit: (12, 0) };
        assert!(exact.rank((9, 0)) > PTX.rank((9, 0)) && exact.rank((9, 0)) < cubin.rank((9, 0)));
        assert_eq!((exact.rank((8, 0)), exact.rank((10, 0))), (None, None));
        assert_eq!((exact.oldest_driver(), PTX.oldest_driver()), ((12, 0), (11, 0)));
    }
}
