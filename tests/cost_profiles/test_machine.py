from cost_profiles.machine import device_name


def test_machines_have_names(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor: 0\nmodel name\t: Fast One 3000\nmodel name\t: Fast One 3000\n")
    assert device_name("cpu", "cpu", cpuinfo).startswith("cpu Fast One 3000, ")
    assert device_name("gpu", "NVIDIA H200", cpuinfo) == "gpu NVIDIA H200"


def test_a_processor_without_a_description_has_a_name_too(tmp_path):
    assert device_name("cpu", "cpu", tmp_path / "none").startswith("cpu ")
