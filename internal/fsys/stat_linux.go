package fsys

import (
	"errors"
	"path"

	"golang.org/x/sys/unix"
)

// told is what statx alone tells of an entry.
type told uint8

const (
	tellsMounts told = 1 << iota // it knows mounts
	isMountRoot
)

// lstat describes the entry base of the open directory dir, whose own name is in.
func (r *root) lstat(dir int, base, in string) (Info, error) {
	info, told, err := r.stat(dir, base, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return Info{}, err
	}
	info.Name = base
	info.Mount, err = r.isMount(&info, told, in, base)
	return info, err
}

// statFD describes an open file or directory, its name left out.
func (r *root) statFD(fd int) (Info, told, error) { return r.stat(fd, "", unix.AT_EMPTY_PATH) }

func (r *root) stat(dir int, base string, flags int) (Info, told, error) {
	// retry would put what is filled here on the heap, once for each file of a tree.
	if !r.statx {
		var st unix.Stat_t
		err := error(unix.EINTR)
		for errors.Is(err, unix.EINTR) {
			if base == "" {
				err = unix.Fstat(dir, &st)
			} else {
				err = unix.Fstatat(dir, base, &st, flags|unix.AT_NO_AUTOMOUNT)
			}
		}
		return infoOf(&st), 0, err
	}
	var st unix.Statx_t
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Statx(dir, base, flags|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &st)
	}
	var t told
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		t = tellsMounts
		if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			t |= isMountRoot
		}
	}
	return infoOfStatx(&st), t, err
}

// isMount reports whether the entry base of the directory in is the root of
// another mount, or lies on another file system. On overlayfs a file may show the
// device of the layer that it comes from.
func (r *root) isMount(i *Info, t told, in, base string) (bool, error) {
	switch {
	case base == ".":
		return false, nil
	case i.Dev != r.dev && (i.Type == TypeDir || !r.overlay):
		return true, nil
	case !r.mountsListed:
		return t&isMountRoot != 0, nil
	case r.table == nil:
		return false, nil
	}
	return r.table.Has(path.Join(r.real, in, base))
}

func infoOf(st *unix.Stat_t) Info {
	return Info{
		Type:  typeOf(uint32(st.Mode)),
		Mode:  uint32(st.Mode) & 0o7777,
		UID:   st.Uid,
		GID:   st.Gid,
		Size:  st.Size,
		Alloc: int64(st.Blocks) * 512,
		Mtime: st.Mtim.Nano(),
		Ctime: st.Ctim.Nano(),
		Dev:   uint64(st.Dev),
		Ino:   uint64(st.Ino),
		Nlink: uint64(st.Nlink),
	}
}

func infoOfStatx(st *unix.Statx_t) Info {
	const fixed = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND
	return Info{
		Type:  typeOf(uint32(st.Mode)),
		Mode:  uint32(st.Mode) & 0o7777,
		UID:   st.Uid,
		GID:   st.Gid,
		Size:  int64(st.Size),
		Alloc: int64(st.Blocks) * 512,
		Mtime: nanoseconds(st.Mtime),
		Ctime: nanoseconds(st.Ctime),
		Dev:   unix.Mkdev(st.Dev_major, st.Dev_minor),
		Ino:   st.Ino,
		Nlink: uint64(st.Nlink),
		Fixed: st.Attributes&st.Attributes_mask&fixed != 0,
	}
}

func nanoseconds(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

func typeOf(mode uint32) Type {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return TypeFile
	case unix.S_IFDIR:
		return TypeDir
	case unix.S_IFLNK:
		return TypeSymlink
	}
	return TypeOther
}
