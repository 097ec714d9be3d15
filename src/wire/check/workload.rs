//! The workload of a desired state or of a boot document.

use crate::{problem::Problems, state::Workload, value::quoted};

/// Checks a workload, wherever it stands.
pub(crate) fn check_workload(path: &str, workload: &Workload, problems: &mut Problems) {
    let has_nul = |text: &str| text.contains('\0');
    if workload.argv.first().is_none_or(String::is_empty) {
        problems.add(format!("{path}.argv"), "no program: write at least its name");
    }
    for (a, argument) in workload.argv.iter().enumerate() {
        if has_nul(argument) {
            problems.add(format!("{path}.argv[{a}]"), "a NUL byte cannot be passed to a program");
        }
    }
    for (e, variable) in workload.env.iter().enumerate() {
        let named = variable.find('=').is_some_and(|at| at > 0);
        if !named || has_nul(variable) {
            problems.add(
                format!("{path}.env[{e}]"),
                format!("{} is not a variable: write NAME=value", quoted(variable)),
            );
        }
    }
    if !workload.cwd.is_empty() && (!workload.cwd.starts_with('/') || has_nul(&workload.cwd)) {
        problems.add(
            format!("{path}.cwd"),
            format!("{} is not an absolute path: write one that starts with /", quoted(&workload.cwd)),
        );
    }
}
