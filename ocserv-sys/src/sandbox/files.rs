//! Landlock: no file at all.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus,
    Scope,
};

use super::SandboxError;

/// What the kernel could enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRestriction {
    /// Files, TCP, abstract sockets and signals.
    Full,
    /// Files, but not all of the rest: an older kernel.
    Partial,
    /// Nothing: a kernel without Landlock. Seccomp alone stands guard.
    Absent,
}

/// Forbids this thread and its future children every access to files (descriptors already open stay
/// usable), and, where the kernel can, TCP `bind` and `connect`, abstract Unix sockets and signals to
/// processes outside.
///
/// # Errors
/// When a kernel with Landlock refuses.
pub fn restrict_files() -> Result<FileRestriction, SandboxError> {
    let abi = ABI::V6;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => FileRestriction::Full,
        RulesetStatus::PartiallyEnforced => FileRestriction::Partial,
        RulesetStatus::NotEnforced => FileRestriction::Absent,
    })
}
