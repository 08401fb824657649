//! The compiled kernels that this library carries, and the choice among them for a device.

use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// A compiled kernel file.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) stem: &'static str,
    pub(crate) target: Target,
    pub(crate) bytes: &'static [u8],
}

/// The target for which an image was compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "a library that was built without kernels has no targets")]
pub(crate) enum Target {
    /// Machine code. If `exact`, only for this compute capability; else also for later minor
    /// versions of the same major version.
    Cubin { major: u32, minor: u32, exact: bool },
    /// PTX, which the driver compiles.
    Ptx,
}

/// A compiled kernel file that this library carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// The name of the kernel file without its extension.
    pub stem: &'static str,
    /// The target, such as `sm_90a` or `ptx`.
    pub target: String,
    /// The bytes of the image, as nvcc wrote them.
    pub contents: &'static [u8],
    /// The text, if the image is PTX.
    pub ptx: Option<&'static str>,
}

/// Returns all images that this library carries; none if it was built without nvcc.
///
/// ```
/// for image in bagdot::backend::cuda::images() {
///     println!("{} for {}: {} bytes", image.stem, image.target, image.contents.len());
/// }
/// ```
pub fn images() -> Vec<ImageInfo> {
    let info = |image: &Image| ImageInfo {
        stem: image.stem,
        target: match image.target {
            Target::Cubin { major, minor, exact } => {
                format!("sm_{major}{minor}{}", if exact { "a" } else { "" })
            }
            Target::Ptx => "ptx".into(),
        },
        contents: image.bytes,
        ptx: match image.target {
            Target::Ptx => std::str::from_utf8(image.bytes).ok(),
            Target::Cubin { .. } => None,
        },
    };
    IMAGES.iter().map(info).collect()
}

/// Returns the images of a kernel file that a device takes, best first: the cubin for exactly its
/// capability, the highest cubin of its generation, the PTX.
///
/// # Errors
/// Returns [`Error::KernelsNotBuilt`] if there are no images at all, and [`Error::NoKernelImage`]
/// if the device takes none.
pub(crate) fn candidates(stem: &str, capability: (u32, u32)) -> Result<Vec<&'static Image>> {
    if IMAGES.is_empty() {
        return Err(Error::KernelsNotBuilt);
    }
    let rank = |image: &Image| match image.target {
        Target::Cubin { major, minor, exact: true } => {
            ((major, minor) == capability).then_some((2, minor))
        }
        Target::Cubin { major, minor, exact: false } => {
            (major == capability.0 && minor <= capability.1).then_some((1, minor))
        }
        Target::Ptx => (capability >= (8, 0)).then_some((0, 0)),
    };
    let mut found: Vec<_> = IMAGES
        .iter()
        .filter(|image| image.stem == stem)
        .filter_map(|image| Some((rank(image)?, image)))
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

    #[test]
    fn devices_get_the_best_image() {
        let targets = |capability| {
            candidates("embedding_bag", capability)
                .map(|found| found.iter().map(|image| image.target).collect::<Vec<_>>())
        };
        let cubin = |major, minor, exact| Target::Cubin { major, minor, exact };
        assert_eq!(targets((9, 0)).unwrap(), [cubin(9, 0, true), Target::Ptx]);
        assert_eq!(targets((8, 6)).unwrap(), [cubin(8, 0, false), Target::Ptx]);
        assert_eq!(targets((10, 3)).unwrap(), [cubin(10, 0, false), Target::Ptx]);
        assert_eq!(targets((13, 0)).unwrap(), [Target::Ptx]);
        assert_eq!(targets((7, 5)).unwrap_err(), Error::NoKernelImage { capability: (7, 5) });
    }
}
