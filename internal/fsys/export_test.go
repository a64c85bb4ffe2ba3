package fsys

// Without makes o do as on a kernel without openat2 (before Linux 5.6), without
// mounts in statx (5.8), and without statx (4.11).
func (o *OS) Without(openat2, mountsInStatx, statx bool) {
	r := o.root
	r.openat2 = r.openat2 && !openat2
	r.statx = r.statx && !statx
	if mountsInStatx && !r.mountsListed {
		r.listMounts()
	}
}
