//! System calls that the daemon never makes once it serves, and a filter that has the kernel refuse
//! them.
//!
//! A list of what is refused, not of what is allowed as in `nkv.service`: which calls the C library
//! makes, and a module of the name service that it loads, is known for the systems on which that unit
//! was tried, and not for all on which this program may run. `docs/design-decisions.md` has more of it.
//!
//! What is refused is answered as a call that the kernel does not have (`ENOSYS`), as under the unit.
//! It is what the C library understands best: it then starts a thread by `clone`, whose purpose can be
//! seen, and not by `clone3`, whose can't. For the same reason calls that are younger than this list
//! are refused: on an older kernel everything works without them. A call of another architecture ends
//! the process.
//!
//! The filter is a search by halves, because the kernel tries it with every call there is when it gets
//! it, and that is a part of the daemon's start.

use std::io;

use nix::libc::{self, c_long};
use seccompiler::{BpfProgram, sock_filter};

/// What is refused, whatever it is asked for, by what it could do.
#[rustfmt::skip]
const REFUSED: [&[c_long]; 11] = [
    // becoming another program, and a call that is not seen through
    &[libc::SYS_execve, libc::SYS_execveat, libc::SYS_clone3],
    // other processes of the same user
    &[libc::SYS_kill, libc::SYS_kcmp, libc::SYS_pidfd_getfd, libc::SYS_pidfd_open,
      libc::SYS_pidfd_send_signal, libc::SYS_process_madvise, libc::SYS_process_vm_readv,
      libc::SYS_process_vm_writev, libc::SYS_ptrace, libc::SYS_rt_sigqueueinfo,
      libc::SYS_rt_tgsigqueueinfo],
    // another socket to be reached at
    &[libc::SYS_bind, libc::SYS_listen],
    // files, in ways that Landlock does not know
    &[libc::SYS_fchmod, libc::SYS_fchmodat, FCHMODAT2, libc::SYS_fchown, libc::SYS_fchownat,
      libc::SYS_setxattr, libc::SYS_fsetxattr, libc::SYS_lsetxattr, SETXATTRAT,
      libc::SYS_removexattr, libc::SYS_fremovexattr, libc::SYS_lremovexattr, REMOVEXATTRAT,
      FILE_SETATTR, libc::SYS_utimensat, libc::SYS_mknodat, libc::SYS_open_by_handle_at,
      libc::SYS_fanotify_init],
    // calls that no filter sees
    &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register],
    // users, groups, capabilities
    &[libc::SYS_capset, libc::SYS_setfsgid, libc::SYS_setfsuid, libc::SYS_setgid,
      libc::SYS_setgroups, libc::SYS_setregid, libc::SYS_setresgid, libc::SYS_setresuid,
      libc::SYS_setreuid, libc::SYS_setuid, libc::SYS_personality],
    // keys
    &[libc::SYS_add_key, libc::SYS_keyctl, libc::SYS_request_key],
    // namespaces and mounts
    &[libc::SYS_chroot, libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fsopen, libc::SYS_fspick,
      libc::SYS_mount, libc::SYS_mount_setattr, libc::SYS_move_mount, libc::SYS_open_tree,
      OPEN_TREE_ATTR, libc::SYS_pivot_root, libc::SYS_quotactl, libc::SYS_quotactl_fd,
      libc::SYS_setns, libc::SYS_swapoff, libc::SYS_swapon, libc::SYS_umount2, libc::SYS_unshare],
    // the kernel
    &[libc::SYS_bpf, libc::SYS_delete_module, libc::SYS_finit_module, libc::SYS_init_module,
      KEXEC_FILE_LOAD, libc::SYS_kexec_load, libc::SYS_perf_event_open, libc::SYS_syslog,
      libc::SYS_userfaultfd],
    // the machine
    &[libc::SYS_acct, libc::SYS_adjtimex, libc::SYS_clock_adjtime, libc::SYS_clock_settime,
      libc::SYS_reboot, libc::SYS_setdomainname, libc::SYS_sethostname, libc::SYS_settimeofday,
      libc::SYS_vhangup],
    // more than its share
    &[libc::SYS_ioprio_set, libc::SYS_sched_setattr, libc::SYS_sched_setparam,
      libc::SYS_sched_setscheduler, libc::SYS_setpriority],
];

/// What only this architecture has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS_fork, libc::SYS_vfork,
    libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_mknod, libc::SYS_utime,
    libc::SYS_utimes, libc::SYS_futimesat,
    libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_modify_ldt, libc::SYS_uselib,
];
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[c_long] = &[];

// The crate `libc` lacks these for some systems.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
const OPEN_TREE_ATTR: c_long = 467;
const FILE_SETATTR: c_long = 469;
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: c_long = 320;
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: c_long = 294;

/// The first call that is younger than this list, which is as old as Linux 6.18. On x86_64 the numbers
/// that programs with short pointers use are far above it.
const UNKNOWN: u32 = 470;

/// A call that is needed for one purpose and refused for others.
struct Condition {
    call: c_long,
    /// The argument whose lower half says what it is for.
    argument: u32,
    test: Test,
    values: &'static [u32],
    /// What becomes of the call where the test holds for a value, and where for none.
    hit: u32,
    miss: u32,
}

/// How an argument is held against a value.
#[derive(Clone, Copy)]
#[repr(u16)]
enum Test {
    Equal = 0x15,
    HasBit = 0x45,
}

const CONDITIONS: [Condition; 3] = [
    // What is no thread is a process.
    Condition {
        call: libc::SYS_clone,
        argument: 0,
        test: Test::HasBit,
        values: &[libc::CLONE_THREAD.unsigned_abs()],
        hit: PERMISSION,
        miss: REFUSAL,
    },
    // To speak to the service manager, and to the name service.
    Condition {
        call: libc::SYS_socket,
        argument: 0,
        test: Test::Equal,
        values: &[libc::AF_UNIX.unsigned_abs()],
        hit: PERMISSION,
        miss: REFUSAL,
    },
    // Not input for whoever reads a terminal: TIOCSTI and TIOCLINUX, whose types differ.
    Condition {
        call: libc::SYS_ioctl,
        argument: 1,
        test: Test::Equal,
        values: &[0x5412, 0x541c],
        hit: REFUSAL,
        miss: PERMISSION,
    },
];

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Allowed,
    Refused,
    /// That depends, on the condition with this number.
    Depends(u8),
}

/// Has the kernel refuse these calls to this thread, and to those that it starts.
pub(super) fn filter() -> io::Result<()> {
    seccompiler::apply_filter(&program()).map_err(|error| match error {
        seccompiler::Error::Seccomp(source) | seccompiler::Error::Prctl(source) => source,
        _ => io::Error::other("the filter is not what it should be"),
    })
}

/// The filter: classic BPF over the kernel's `struct seccomp_data` (seccomp(2)).
fn program() -> BpfProgram {
    let mut program = vec![
        load(ARCHITECTURE_OFFSET),
        step(Test::Equal as u16, 1, 0, ARCHITECTURE),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(CALL_OFFSET),
    ];
    search(&ranges(), &mut program);
    program
}

/// All numbers of calls in ranges, by their first.
fn ranges() -> Vec<(u32, Verdict)> {
    let mut verdicts = [Verdict::Allowed; UNKNOWN as usize];
    let refused = REFUSED.into_iter().flatten().chain(REFUSED_HERE);
    let refused = refused.map(|call| (*call, Verdict::Refused));
    let conditions = CONDITIONS.iter().zip(0..);
    let depends = conditions.map(|(condition, number)| (condition.call, Verdict::Depends(number)));
    for (call, verdict) in refused.chain(depends) {
        let call = usize::try_from(call).expect("numbers of calls are not negative");
        verdicts[call] = verdict;
    }
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for (call, verdict) in (0..).zip(verdicts).chain([(UNKNOWN, Verdict::Refused)]) {
        if ranges.last().is_none_or(|range| range.1 != verdict) {
            ranges.push((call, verdict));
        }
    }
    ranges
}

/// Appends a search for the range of the call that is loaded.
fn search(ranges: &[(u32, Verdict)], program: &mut BpfProgram) {
    if let [(_, verdict)] = ranges {
        return decide(*verdict, program);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let first = upper.first().map_or(0, |range| range.0);
    program.push(step(JUMP_IF_NOT_LESS, 0, 1, first));
    let jump = program.len();
    program.push(step(JUMP, 0, 0, 0));
    search(lower, program);
    let len = u32::try_from(program.len() - jump - 1);
    program[jump].k = len.expect("the kernel takes 4096 steps at most");
    search(upper, program);
}

fn decide(verdict: Verdict, program: &mut BpfProgram) {
    match verdict {
        Verdict::Allowed => program.push(answer(PERMISSION)),
        Verdict::Refused => program.push(answer(REFUSAL)),
        Verdict::Depends(number) => {
            let condition = &CONDITIONS[usize::from(number)];
            let offset = ARGUMENTS_OFFSET + condition.argument * ARGUMENT_BYTES;
            program.push(load(offset));
            for value in condition.values {
                program.push(step(condition.test as u16, 0, 1, *value));
                program.push(answer(condition.hit));
            }
            program.push(answer(condition.miss));
        }
    }
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

const CALL_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
/// Both processors have the lower half first.
const ARGUMENTS_OFFSET: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_IF_NOT_LESS: u16 = 0x35;
const RETURN: u16 = 0x06;

const PERMISSION: u32 = libc::SECCOMP_RET_ALLOW;
const REFUSAL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();

fn load(offset: u32) -> sock_filter {
    step(LOAD, 0, 0, offset)
}

fn answer(value: u32) -> sock_filter {
    step(RETURN, 0, 0, value)
}

/// One step: what it does with `k`, and how many it skips where a test holds and where not.
fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says, by the machine that the kernel would be, and the number of its steps.
    fn run(architecture: u32, call: u32, arguments: [u32; 2]) -> (u32, u32) {
        let program = program();
        let (mut at, mut loaded, mut steps) = (0, 0, 0);
        loop {
            let step = &program[at];
            at += 1;
            steps += 1;
            let holds = match step.code {
                LOAD => {
                    loaded = match step.k {
                        CALL_OFFSET => call,
                        ARCHITECTURE_OFFSET => architecture,
                        16 => arguments[0],
                        24 => arguments[1],
                        offset => panic!("nothing is loaded from {offset}"),
                    };
                    continue;
                }
                JUMP => {
                    at += usize::try_from(step.k).unwrap();
                    continue;
                }
                RETURN => return (step.k, steps),
                JUMP_IF_NOT_LESS => loaded >= step.k,
                code if code == Test::Equal as u16 => loaded == step.k,
                code if code == Test::HasBit as u16 => loaded & step.k != 0,
                code => panic!("there is no step {code}"),
            };
            at += usize::from(if holds { step.jt } else { step.jf });
        }
    }

    #[test]
    fn every_call_has_its_verdict() {
        let is_listed = |call| REFUSED.concat().contains(&call) || REFUSED_HERE.contains(&call);
        let is_conditional =
            |call: c_long| CONDITIONS.iter().any(|condition| condition.call == call);
        let numbers = (0..1000).chain(0x4000_0000..0x4000_0400).chain([u32::MAX]);
        for call in numbers.filter(|call| !is_conditional((*call).into())) {
            let expected = if is_listed(call.into()) || call >= UNKNOWN {
                REFUSAL
            } else {
                PERMISSION
            };
            let (found, steps) = run(ARCHITECTURE, call, [0, 0]);
            assert_eq!(found, expected, "{call}");
            assert!(steps < 25, "{call} takes {steps} steps");
        }
    }

    #[test]
    fn some_depend_on_what_they_are_asked_for() {
        let check = |call: c_long, arguments, expected| {
            let (found, _) = run(ARCHITECTURE, u32::try_from(call).unwrap(), arguments);
            assert_eq!(found, expected, "{call} {arguments:?}");
        };
        let number = |number: i32| number.unsigned_abs();
        let thread = number(libc::CLONE_VM | libc::CLONE_THREAD);
        check(libc::SYS_clone, [thread, 0], PERMISSION);
        check(libc::SYS_clone, [number(libc::SIGCHLD), 0], REFUSAL);
        check(libc::SYS_socket, [number(libc::AF_UNIX), 0], PERMISSION);
        for family in [libc::AF_INET, libc::AF_PACKET, libc::AF_NETLINK, 0] {
            check(libc::SYS_socket, [number(family), 0], REFUSAL);
        }
        check(libc::SYS_ioctl, [0, 0x5421], PERMISSION);
        check(libc::SYS_ioctl, [0, 0x5412], REFUSAL);
        check(libc::SYS_ioctl, [0, 0x541c], REFUSAL);
    }

    #[test]
    fn another_architecture_is_the_end() {
        let i386 = 0x4000_0003;
        assert_eq!(run(i386, 1, [0, 0]).0, libc::SECCOMP_RET_KILL_PROCESS);
    }
}
