//! How this process was started among others, read off the variables that launchers set.
//!
//! | launcher | number of the process, of how many, on its machine | where they meet |
//! | --- | --- | --- |
//! | `torchrun`, and anything that does as it does | `RANK`, `WORLD_SIZE`, `LOCAL_RANK` | `MASTER_ADDR`, `MASTER_PORT` |
//! | `mpirun` of Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK` | `MASTER_ADDR`, or this machine if all are on it |
//! | `srun` | `SLURM_PROCID`, `SLURM_NTASKS`, `SLURM_LOCALID` | the first host of `SLURM_JOB_NODELIST` |
//! | `mpirun` of MPICH and Intel MPI | `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID` | `MASTER_ADDR` |
//!
//! `MASTER_ADDR` and `MASTER_PORT` win wherever they are set. With none of the variables, a process is alone.

use crate::distributed::nodelist::first_host;
use crate::error::Error;

/// The port where none is named: torchrun's.
const PORT: u16 = 29_500;

/// Slurm's numbers of steps that are not one of `srun`'s, such as the batch script, begin here.
const FIRST_SPECIAL_STEP: u64 = 0xffff_fff0;

/// One process among several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Its number, from 0.
    pub rank: usize,
    /// How many there are.
    pub world_size: usize,
    /// Its number among those on the same machine, which is the GPU it takes.
    pub local_rank: usize,
    /// The host of the store they meet at.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Whether the launcher keeps the store. Otherwise rank 0 does.
    pub agent_store: bool,
    /// How often the launcher has started the job before, as text: attempts do not see each other's values.
    pub attempt: String,
}

impl Launch {
    /// How this process was started; `None` when it is alone.
    ///
    /// # Errors
    /// [`Error::Launch`] when some of a launcher's variables are missing or are no numbers.
    pub fn from_environment() -> Result<Option<Launch>, Error> {
        Launch::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// As [`Self::from_environment`], from any source of variables.
    ///
    /// # Errors
    /// [`Error::Launch`].
    pub fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Launch>, Error> {
        let variables = Variables(get);
        let set = |name: &str| get(name).is_some();
        if set("RANK") || set("WORLD_SIZE") {
            return variables.torchrun().map(Some);
        }
        if set("OMPI_COMM_WORLD_RANK") || set("OMPI_COMM_WORLD_SIZE") {
            return variables.open_mpi();
        }
        if set("SLURM_PROCID") && !variables.is_batch_script() {
            return variables.slurm();
        }
        if set("PMI_RANK") || set("PMI_SIZE") {
            return variables.pmi();
        }
        Ok(None)
    }

    /// Whether this process keeps the store.
    pub fn keeps_store(&self) -> bool {
        self.rank == 0 && !self.agent_store
    }
}

struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn torchrun(&self) -> Result<Launch, Error> {
        let all = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"];
        let [rank, world_size, local_rank] = [all[0], all[1], all[2]].map(|name| self.number(name, &all));
        let (rank, world_size, local_rank) = (rank?, world_size?, local_rank?);
        let address = self.needed("MASTER_ADDR", &all)?;
        self.needed("MASTER_PORT", &all)?;
        self.launch(rank, world_size, local_rank, address, PORT)
    }

    fn open_mpi(&self) -> Result<Option<Launch>, Error> {
        let all = ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"];
        let [rank, world_size, local_rank] = all.map(|name| self.number(name, &all));
        let (rank, world_size, local_rank) = (rank?, world_size?, local_rank?);
        let here = (self.0)("OMPI_COMM_WORLD_LOCAL_SIZE") == Some(world_size.to_string());
        self.mpi(rank, world_size, local_rank, here)
    }

    fn pmi(&self) -> Result<Option<Launch>, Error> {
        let all = ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"];
        let [rank, world_size, local_rank] = all.map(|name| self.number(name, &all));
        let (rank, world_size, local_rank) = (rank?, world_size?, local_rank?);
        let here = (self.0)("MPI_LOCALNRANKS") == Some(world_size.to_string());
        self.mpi(rank, world_size, local_rank, here)
    }

    fn mpi(
        &self,
        rank: usize,
        world_size: usize,
        local_rank: usize,
        here: bool,
    ) -> Result<Option<Launch>, Error> {
        if world_size == 1 {
            return Ok(None);
        }
        let address = match (self.0)("MASTER_ADDR") {
            Some(address) => address,
            None if here => "127.0.0.1".to_owned(),
            None => {
                let reason = "MASTER_ADDR is not set and the ranks are on several machines: set it to the host of rank 0 \
                              (mpirun -x MASTER_ADDR=HOST ...)";
                return Err(Error::Launch { reason: reason.to_owned() });
            }
        };
        self.launch(rank, world_size, local_rank, address, PORT).map(Some)
    }

    /// `sbatch` runs its script with the variables of task 0, though no other task is started before `srun` does.
    fn is_batch_script(&self) -> bool {
        let step = (self.0)("SLURM_STEP_ID").and_then(|step| step.parse::<u64>().ok());
        match step {
            Some(step) => step >= FIRST_SPECIAL_STEP,
            None => (self.0)("ENVIRONMENT").as_deref() == Some("BATCH"),
        }
    }

    fn slurm(&self) -> Result<Option<Launch>, Error> {
        let all = ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_NODELIST"];
        let rank = self.number("SLURM_PROCID", &all)?;
        let world_size = match (self.0)("SLURM_STEP_NUM_TASKS") {
            Some(_) => self.number("SLURM_STEP_NUM_TASKS", &all)?,
            None => self.number("SLURM_NTASKS", &all)?,
        };
        if world_size == 1 {
            return Ok(None);
        }
        let local_rank = self.number("SLURM_LOCALID", &all)?;
        let address = match ((self.0)("MASTER_ADDR"), (self.0)("SLURM_STEP_NODELIST")) {
            (Some(address), _) => address,
            (None, Some(hosts)) => first_host(&hosts),
            (None, None) => first_host(&self.needed("SLURM_JOB_NODELIST", &all)?),
        };
        // Jobs that share a machine should not meet.
        let job = (self.0)("SLURM_JOB_ID").and_then(|job| job.parse::<u64>().ok()).unwrap_or(0);
        let port = 10_000 + u16::try_from(job % 20_000).expect("below 20,000");
        self.launch(rank, world_size, local_rank, address, port).map(Some)
    }

    fn launch(
        &self,
        rank: usize,
        world_size: usize,
        local_rank: usize,
        address: String,
        port: u16,
    ) -> Result<Launch, Error> {
        let refuse = |reason: String| Err(Error::Launch { reason });
        if rank >= world_size {
            return refuse(format!("its number is {rank} of {world_size}; numbers begin at 0"));
        }
        let port = match (self.0)("MASTER_PORT") {
            None => port,
            Some(text) => match text.parse() {
                Ok(port) => port,
                Err(_) => return refuse(format!("MASTER_PORT is {text:?}, expected a port from 1 to 65535")),
            },
        };
        let agent_store = (self.0)("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        let attempt = (self.0)("TORCHELASTIC_RESTART_COUNT").unwrap_or_else(|| "0".to_owned());
        Ok(Launch { rank, world_size, local_rank, address, port, agent_store, attempt })
    }

    /// A variable that its launcher sets together with `all`.
    fn needed(&self, name: &str, all: &[&str]) -> Result<String, Error> {
        (self.0)(name).ok_or_else(|| {
            let there: Vec<&str> = all.iter().copied().filter(|name| (self.0)(name).is_some()).collect();
            let there = there.join(", ");
            Error::Launch {
                reason: format!(
                    "{name} is not set, though {there} {}: start it with a launcher that sets all of {}, or unset them \
                     to train in one process",
                    if there.contains(',') { "are" } else { "is" },
                    all.join(", "),
                ),
            }
        })
    }

    fn number(&self, name: &str, all: &[&str]) -> Result<usize, Error> {
        let text = self.needed(name, all)?;
        text.parse()
            .map_err(|_| Error::Launch { reason: format!("{name} is {text:?}, expected a whole number") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Launch>, Error> {
        Launch::read(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn launch(variables: &[(&str, &str)]) -> Launch {
        read(variables).unwrap().unwrap()
    }

    fn reason(variables: &[(&str, &str)]) -> String {
        read(variables).unwrap_err().to_string()
    }

    const TORCHRUN: [(&str, &str); 5] = [
        ("RANK", "3"),
        ("WORLD_SIZE", "4"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "node7"),
        ("MASTER_PORT", "4000"),
    ];

    #[test]
    fn a_process_without_a_launcher_is_alone() {
        assert_eq!(read(&[]).unwrap(), None);
        // What a shell on a cluster may have set.
        let shell =
            [("MASTER_ADDR", "node7"), ("SLURM_JOB_ID", "9"), ("SLURM_NTASKS", "8"), ("LOCAL_RANK", "0")];
        assert_eq!(read(&shell).unwrap(), None);
    }

    #[test]
    fn torchrun_says_everything() {
        let expected = Launch {
            rank: 3,
            world_size: 4,
            local_rank: 1,
            address: "node7".to_owned(),
            port: 4000,
            agent_store: false,
            attempt: "0".to_owned(),
        };
        assert_eq!(launch(&TORCHRUN), expected);
        let elastic = [("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RESTART_COUNT", "2")];
        let launched = launch(&[TORCHRUN.as_slice(), &elastic].concat());
        assert!(launched.agent_store && !launched.keeps_store() && launched.attempt == "2");
        assert!(launch(&[&[("RANK", "0")], &TORCHRUN[1..]].concat()).keeps_store());
    }

    #[test]
    fn what_is_missing_is_named() {
        for missing in TORCHRUN {
            let rest: Vec<_> = TORCHRUN.into_iter().filter(|variable| *variable != missing).collect();
            let reason = reason(&rest);
            assert!(reason.contains(&format!("{} is not set", missing.0)), "{reason}");
        }
        let reason = reason(&[("RANK", "0")]);
        assert!(reason.contains("WORLD_SIZE is not set, though RANK is: start it with"), "{reason}");
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        let with = |name: &'static str, value: &'static str| {
            let rest = TORCHRUN.into_iter().filter(move |(known, _)| *known != name);
            reason(&[(name, value)].into_iter().chain(rest).collect::<Vec<_>>())
        };
        assert!(with("RANK", "first").contains("RANK is \"first\", expected a whole number"));
        assert!(with("RANK", "4").contains("its number is 4 of 4"));
        assert!(with("MASTER_PORT", "99999").contains("MASTER_PORT is \"99999\""));
    }

    #[test]
    fn srun_names_the_hosts() {
        let srun = [
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "16"),
            ("SLURM_LOCALID", "5"),
            ("SLURM_JOB_NODELIST", "gpu[03-04]"),
            ("SLURM_JOB_ID", "1234567"),
        ];
        let launched = launch(&srun);
        assert_eq!((launched.rank, launched.world_size, launched.local_rank), (5, 16, 5));
        assert_eq!((launched.address.as_str(), launched.port), ("gpu03", 10_000 + 14_567));
        // A step of some of a job's tasks, on some of its hosts.
        let step = [("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_STEP_NODELIST", "gpu04"), ("SLURM_STEP_ID", "1")];
        let launched = launch(&[srun.as_slice(), &step].concat());
        assert_eq!((launched.world_size, launched.address.as_str()), (8, "gpu04"));
        let chosen = [("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "5")];
        let launched = launch(&[srun.as_slice(), &chosen].concat());
        assert_eq!((launched.address.as_str(), launched.port), ("10.0.0.1", 5));
        assert!(reason(&srun[..3]).contains("SLURM_JOB_NODELIST is not set"));
        assert_eq!(read(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")]).unwrap(), None);
    }

    #[test]
    fn a_batch_script_is_alone_until_srun() {
        let script = [
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "16"),
            ("SLURM_LOCALID", "0"),
            ("SLURM_JOB_NODELIST", "gpu[03-04]"),
            ("ENVIRONMENT", "BATCH"),
        ];
        assert_eq!(read(&script).unwrap(), None);
        assert_eq!(read(&[script.as_slice(), &[("SLURM_STEP_ID", "4294967291")]].concat()).unwrap(), None);
        assert!(read(&[script.as_slice(), &[("SLURM_STEP_ID", "0")]].concat()).unwrap().is_some());
    }

    #[test]
    fn mpirun_needs_an_address_on_several_machines() {
        let open = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        ];
        assert!(reason(&open).contains("MASTER_ADDR is not set"));
        let here = [("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
        let launched = launch(&[open.as_slice(), &here].concat());
        assert_eq!((launched.address.as_str(), launched.port, launched.rank), ("127.0.0.1", PORT, 1));
        let pmi = [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "0"), ("MASTER_ADDR", "node1")];
        assert_eq!(launch(&pmi).local_rank, 0);
        assert_eq!(read(&[("PMI_RANK", "0"), ("PMI_SIZE", "1"), ("MPI_LOCALRANKID", "0")]).unwrap(), None);
    }
}
