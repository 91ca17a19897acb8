//! Checking the WGPU backend on a machine without a GPU.
//!
//! Browsers ship SwiftShader, a Vulkan driver that computes on the CPU. It is slow, but it runs the kernels that a GPU
//! would run.

use std::env;
use std::path::Path;

/// Tells the Vulkan loader which drivers to use.
const DRIVERS: &str = "VK_DRIVER_FILES";
/// Its name in older loaders.
const DRIVERS_OLD: &str = "VK_ICD_FILENAMES";

/// Where Linux distributions and vendors register the drivers of GPUs.
const DRIVER_FOLDERS: [&str; 4] = [
    "/etc/vulkan/icd.d",
    "/usr/share/vulkan/icd.d",
    "/usr/local/share/vulkan/icd.d",
    "/usr/local/etc/vulkan/icd.d",
];

/// Where browsers keep SwiftShader.
const SWIFTSHADER: [&str; 5] = [
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
    "/usr/lib64/chromium-browser/vk_swiftshader_icd.json",
    "/opt/google/chrome/vk_swiftshader_icd.json",
    "/snap/chromium/current/usr/lib/chromium-browser/vk_swiftshader_icd.json",
];

/// What to set for a program that uses WGPU: nothing where a GPU's driver is installed, else what SwiftShader needs.
/// Says what it does.
pub fn environment() -> Vec<(&'static str, String)> {
    let chosen = [DRIVERS, DRIVERS_OLD]
        .iter()
        .find_map(|name| env::var(name).ok());
    let found = choose(chosen.as_deref(), has_driver(), |path| {
        Path::new(path).is_file()
    });
    let Some(driver) = found else {
        return Vec::new();
    };
    let mut set = settings(&driver);
    // What the user has set stays.
    set.retain(|(name, _)| env::var_os(name).is_none());
    eprintln!("xtask: using the software driver {driver}, which is slow");
    for (name, value) in &set {
        eprintln!("xtask: {name}={value}");
    }
    set
}

/// SwiftShader's file, if that is the driver to use: the user chose it, or there is no other.
fn choose(chosen: Option<&str>, has_driver: bool, exists: impl Fn(&str) -> bool) -> Option<String> {
    match chosen {
        Some(files) => files.contains("swiftshader").then(|| files.to_owned()),
        None if has_driver => None,
        None => SWIFTSHADER
            .iter()
            .find(|path| exists(path))
            .map(|path| (*path).to_owned()),
    }
}

/// Timing every variant of every kernel is pointless there, and the loader wants a run-time folder.
fn settings(driver: &str) -> Vec<(&'static str, String)> {
    vec![
        (DRIVERS, driver.to_owned()),
        ("CUBECL_AUTOTUNE_LEVEL", "minimal".to_owned()),
        ("XDG_RUNTIME_DIR", env::temp_dir().display().to_string()),
    ]
}

/// Whether any driver is registered. Elsewhere than on Linux the system brings its own.
fn has_driver() -> bool {
    !cfg!(target_os = "linux")
        || DRIVER_FOLDERS.iter().any(|folder| {
            let files = Path::new(folder).read_dir().into_iter().flatten().flatten();
            files.map(|file| file.path()).any(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "json")
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swiftshader_is_used_only_without_another_driver() {
        let some = |path: &str| path == SWIFTSHADER[1];
        assert_eq!(choose(None, false, some).as_deref(), Some(SWIFTSHADER[1]));
        assert_eq!(choose(None, false, |_| false), None);
        assert_eq!(choose(None, true, some), None);
        assert_eq!(choose(Some("/etc/nvidia_icd.json"), false, some), None);
        assert_eq!(
            choose(Some("/else/vk_swiftshader_icd.json"), true, some).as_deref(),
            Some("/else/vk_swiftshader_icd.json")
        );
    }

    #[test]
    fn swiftshader_does_not_tune() {
        let set = settings("driver.json");
        assert!(set.contains(&("VK_DRIVER_FILES", "driver.json".to_owned())));
        assert!(set.contains(&("CUBECL_AUTOTUNE_LEVEL", "minimal".to_owned())));
        assert!(set.iter().any(|(name, _)| *name == "XDG_RUNTIME_DIR"));
    }
}
