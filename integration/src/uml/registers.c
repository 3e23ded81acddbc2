/*
 * Loaded before User-Mode Linux: lets it set vector registers on CPUs that have more of them than it knows.
 *
 * Its state of 2696 bytes ends with AVX-512. The host takes only the whole of what the CPU has (kernel/fpu/regset.c,
 * xstateregs_set: EFAULT otherwise), which with AMX is 11008: then no process of the guest starts. What follows is left as it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...)
{
	static long (*next)(enum __ptrace_request, ...);
	static char whole[65536];
	__builtin_va_list args;
	__builtin_va_start(args, request);
	long pid = __builtin_va_arg(args, long);
	void *kind = __builtin_va_arg(args, void *);
	void *data = __builtin_va_arg(args, void *);
	__builtin_va_end(args);

	if (!next)
		next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
	long result = next(request, pid, kind, data);
	if (result != -1 || errno != EFAULT || request != PTRACE_SETREGSET || (long)kind != NT_X86_XSTATE)
		return result;

	const struct iovec *part = data;
	struct iovec all = { whole, sizeof whole };
	result = next(PTRACE_GETREGSET, pid, kind, &all);
	if (result == -1 || part->iov_len >= all.iov_len)
		return -1;
	memcpy(whole, part->iov_base, part->iov_len);
	return next(PTRACE_SETREGSET, pid, kind, &all);
}
